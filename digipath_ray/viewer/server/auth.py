"""Who may ask, and by which name.

On loopback everybody on the machine may look; anywhere else only who has the token. A
page of another site cannot read, since the name it asks by is none of ours (DNS
rebinding).
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

MIN_TOKEN = 16
"""Characters that a token has at least: 16 of base64 are 96 bits."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whom a server answers.

    Attributes:
        token: what a browser must know; None where everybody may look.
        hosts: names that the server goes by, in lower case, without port.
        any_address: a Host that is a bare IP address will do, as no name can be
            rebound to it.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset(("localhost", "127.0.0.1", "::1"))
    any_address: bool = False

    @property
    def session(self) -> str:
        """What the cookie of a browser holds that has shown the token.

        It follows from the token, so that each of several servers knows it.
        """
        key = (self.token or "").encode()
        return hmac.new(key, b"digipath view: session", "sha256").hexdigest()

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server; its port does not matter."""
        name = host_name(header)
        return name in self.hosts or (self.any_address and _is_address(name))

    def is_token(self, given: str) -> bool:
        """Whether this is the token; takes equally long for every wrong one."""
        return self.token is not None and same(given, self.token)

    def admits(self, request: Request) -> bool:
        """Whether a request may be answered: by its cookie, or its bearer token."""
        if self.token is None:
            return True
        bearer = bearer_of(request)
        if bearer is not None and self.is_token(bearer):
            return True
        return same(request.cookies.get(cookie_name(request), ""), self.session)


def bearer_of(request: Request) -> str | None:
    """The token that a program sends; None if it sends none."""
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer.strip() if kind.lower() == "bearer" else None


def same(given: str, right: str) -> bool:
    """Whether two texts are equal, in constant time; JSON may hold half characters."""
    left = given.encode("utf-8", "surrogatepass")
    return hmac.compare_digest(left, right.encode())


def host_name(header: str) -> str:
    """The name in a Host header, in lower case, without port and brackets."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound there."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def make_trust(
    host: str,
    *,
    token: str | None = None,
    allowed: Iterable[str] = (),
    starts_runs: bool = False,
) -> Trust:
    """Whom a server bound to ``host`` answers: without a token this machine alone.

    Args:
        host: name or address that it is bound to.
        token: the one to ask for; None makes one up where one is needed.
        allowed: further names that it is reached by, as through a proxy, behind which
            others are.
        starts_runs: who asks can start runs, as the user who started the server: other
            users of the machine shall not.
    """
    further = {host_name(name) for name in allowed}
    names = {"localhost", "127.0.0.1", "::1", host.lower(), *further}
    made = token or secrets.token_urlsafe(32)
    if is_loopback(host):
        return Trust(
            token=made if further or starts_runs else token, hosts=frozenset(names)
        )
    names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Trust(token=made, hosts=frozenset(names), any_address=True)


def read_token(path: Path) -> str:
    """The token that a file holds.

    Raises:
        ValueError: it is too short, or others may read the file.
        OSError: the file cannot be read.
    """
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: others may read this token: chmod 600 {path}")
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"{path}: a token is {MIN_TOKEN} or more ASCII characters: "
            "openssl rand -base64 32 makes one"
        )
    return token


def cookie_name(request: Request) -> str:
    """Its port in its name: servers on one machine share their cookies."""
    return f"digipath-{request.url.port or 0}"
