"""ASGI middleware: checks hosts, rates, tokens and POSTs; sets headers."""

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
"""Paths served without a token: the page, which has no secrets, and the login."""
BODY_BYTES = 1 << 20


def refuse(status: int, error: str, hint: str, **headers: str) -> JSONResponse:
    """JSON error response for the page."""
    return JSONResponse({"error": error, "hint": hint}, status, headers=headers)


class Guard:
    """Middleware that rejects requests before they reach the application."""

    def __init__(self, app: ASGIApp, *, trust: Trust, limits: Limits) -> None:
        self.app, self.trust = app, trust
        self._rate = Rate(limits.rate, limits.burst)
        self._logins = Rate(limits.logins / 60, limits.logins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or reject a request."""
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
        """Response that rejects a request; None if it is accepted."""
        if not self.trust.knows_host(request.headers.get("host", "")):
            return refuse(
                421,
                "host name not allowed",
                "open the URL that was printed, or start with --allowed-host",
            )
        address = request.client.host if request.client else ""
        if not self._rate.takes(address):
            wait = {"retry-after": "1"}
            return refuse(429, "too many requests", "wait a second", **wait)
        path = path_of(request)
        if path != "/" and request.headers.get("sec-fetch-site") == "cross-site":
            return refuse(403, "cross-site request", "open the viewer's own URL")
        if request.method == "POST":
            if reason := post_error(request.headers):
                return refuse(
                    403, reason, "only the viewer's page may send POST requests"
                )
            if path == "/api/login" and not self._logins.takes(address):
                return _too_many_logins()
        free = path in OPEN_PATHS or path.startswith("/assets/")
        return None if free else self._token_error(request, address)

    def _token_error(self, request: Request, address: str) -> Response | None:
        """Response to a missing or wrong token; None if authorized."""
        tries = self.trust.token is not None and bearer_of(request) is not None
        if tries and not self._logins.has_left(address):
            return _too_many_logins()
        if self.trust.admits(request):
            return None
        if tries:
            self._logins.takes(address)
        return refuse(401, "token required", "open the full URL that was printed")


def path_of(request: Request) -> str:
    """Path relative to the mount point, e.g. of Ray Serve."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    is_below = bool(root) and f"{path}/".startswith(f"{root.rstrip('/')}/")
    return path[len(root.rstrip("/")) :] or "/" if is_below else path


def _too_many_logins() -> Response:
    wait = {"retry-after": "60"}
    return refuse(429, "too many logins", "wait a minute", **wait)


def post_error(headers: Headers) -> str:
    """Reason why a POST may not be from our page; empty if it is."""
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "POST requests must be application/json"
    if headers.get(OUR_HEADER) != "1":
        return "POST requests must have the header X-Digipath: 1"
    origin = headers.get("origin")
    if origin is None:
        return "POST requests must have an Origin header"
    if origin.lower().partition("://")[2] != headers.get("host", "").lower():
        return "POST requests must have this page's Origin"
    return ""


def _limited(receive: Receive) -> Receive:
    """Receive the body up to a maximum size."""
    came = 0

    async def receive_limited() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > BODY_BYTES:
            raise HTTPException(413, "POST body too large")
        return message

    return receive_limited


def welcome(trust: Trust, request: Request) -> Response:
    """Response to the correct token: an HttpOnly cookie."""
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
