"""What stands before the application: hosts, rates, the token, posts, headers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from digipath_ray.viewer.server.auth import Trust, bearer_of, cookie_name
from digipath_ray.viewer.server.limits import Limits, Rate

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
OUR_HEADER = "x-digipath"
OPEN_PATHS = ("/", "/favicon.ico", "/api/login")
"""What is answered without a token: the page, which holds no secret, and the login."""
BODY_BYTES = 1 << 20


def refuse(status: int, error: str, hint: str, **headers: str) -> JSONResponse:
    """An error as the page understands it."""
    return JSONResponse({"error": error, "hint": hint}, status, headers=headers)


class Guard:
    """Answers for the application what it shall not even see."""

    def __init__(self, app: ASGIApp, *, trust: Trust, limits: Limits) -> None:
        self.app, self.trust = app, trust
        self._rate = Rate(limits.rate, limits.burst)
        self._logins = Rate(limits.logins / 60, limits.logins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.app)(scope, _limited(receive), send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """Why a request is not answered; None of one that is."""
        if not self.trust.knows_host(request.headers.get("host", "")):
            return refuse(
                421,
                "this server does not go by that name",
                "open the address that was printed, or start with --allowed-host",
            )
        address = request.client.host if request.client else ""
        if not self._rate.takes(address):
            wait = {"retry-after": "1"}
            return refuse(429, "too many requests", "wait a second", **wait)
        path = path_of(request)
        if path != "/" and request.headers.get("sec-fetch-site") == "cross-site":
            return refuse(403, "asked for by another site", "open this one's address")
        if request.method == "POST":
            if reason := post_error(request.headers):
                return refuse(403, reason, "posts are only taken from the page itself")
            if path == "/api/login" and not self._logins.takes(address):
                return _too_many_logins()
        free = path in OPEN_PATHS or path.startswith("/assets/")
        return None if free else self._token_error(request, address)

    def _token_error(self, request: Request, address: str) -> Response | None:
        """Why the token, or what stands for it, will not do; None if it does."""
        tries = self.trust.token is not None and bearer_of(request) is not None
        if tries and not self._logins.has_left(address):
            return _too_many_logins()
        if self.trust.admits(request):
            return None
        if tries:
            self._logins.takes(address)
        return refuse(
            401, "a token is needed", "open the whole address that was printed"
        )


def path_of(request: Request) -> str:
    """The path below the one that the application is mounted at, as by Ray Serve."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    is_below = bool(root) and f"{path}/".startswith(f"{root.rstrip('/')}/")
    return path[len(root.rstrip("/")) :] or "/" if is_below else path


def _too_many_logins() -> Response:
    wait = {"retry-after": "60"}
    return refuse(429, "too many logins", "wait a minute", **wait)


def post_error(headers: Headers) -> str:
    """What of a post shows that it may not come from our page; empty if nothing."""
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "a post must be application/json"
    if headers.get(OUR_HEADER) != "1":
        return "a post must carry X-Digipath: 1"
    origin = headers.get("origin")
    if origin is None:
        return "a post must say its Origin"
    if origin.lower().partition("://")[2] != headers.get("host", "").lower():
        return "a post must come from this page"
    return ""


def _limited(receive: Receive) -> Receive:
    """The body as it comes, but not endlessly."""
    came = 0

    async def receive_limited() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > BODY_BYTES:
            raise HTTPException(413, "a post must be smaller")
        return message

    return receive_limited


def welcome(trust: Trust, request: Request) -> Response:
    """The answer to the right token: a cookie that no script can read."""
    response = JSONResponse({"ok": True})
    response.set_cookie(
        cookie_name(request),
        trust.session,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return response
