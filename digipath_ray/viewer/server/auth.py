"""Access control: tokens and host names.

On loopback all users of the machine have access; elsewhere a token is required. Pages
of other sites are blocked because their Host header is not allowed (DNS rebinding).
"""

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

MIN_TOKEN = 16
"""Minimum characters of a token: 16 of base64 are 96 bits."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Access policy of a server.

    Attributes:
        token: required token; None for open access.
        hosts: allowed host names, lower case, without port.
        any_address: whether a Host that is an IP address is allowed, as rebinding needs
            a name.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset(("localhost", "127.0.0.1", "::1"))
    any_address: bool = False

    @property
    def session(self) -> str:
        """Session cookie value of a browser that has shown the token.

        Derived from the token, so that several servers agree on it.
        """
        key = (self.token or "").encode()
        return hmac.new(key, b"digipath view: session", "sha256").hexdigest()

    def knows_host(self, header: str) -> bool:
        """Whether a Host header is allowed; the port is ignored."""
        name = host_name(header)
        return name in self.hosts or (self.any_address and _is_address(name))

    def is_token(self, given: str) -> bool:
        """Whether this is the token, in constant time."""
        return self.token is not None and same(given, self.token)

    def admits(self, request: Request) -> bool:
        """Whether a request is authorized by its cookie or bearer token."""
        if self.token is None:
            return True
        bearer = bearer_of(request)
        if bearer is not None and self.is_token(bearer):
            return True
        return same(request.cookies.get(cookie_name(request), ""), self.session)


def bearer_of(request: Request) -> str | None:
    """Bearer token of a request; None if missing."""
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer.strip() if kind.lower() == "bearer" else None


def same(given: str, right: str) -> bool:
    """Whether two texts are equal, in constant time; JSON may have lone surrogates."""
    left = given.encode("utf-8", "surrogatepass")
    return hmac.compare_digest(left, right.encode())


HOST = re.compile(r"(?:\[([^\]\s]+)\]|([^:@/\[\]\s]+))(?::[0-9]*)?")
"""A host, or an address of IPv6 in brackets, and a port (RFC 9110, section 7.2)."""


def host_name(header: str) -> str:
    """Host name of a Host header, lower case, without port and brackets.

    Empty for what is no host and port, such as ``127.0.0.1:80@evil.example``.
    """
    found = HOST.fullmatch(header.strip().lower())
    return "" if found is None else (found[1] or found[2]).rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a bound address is only reachable from this machine."""
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
    """Build the access policy of a server bound to ``host``; loopback needs no token.

    Args:
        host: name or address the server is bound to.
        token: required token; None generates one if needed.
        allowed: further allowed host names, e.g. of a proxy, which exposes the server
            to others.
        starts_runs: whether clients can start runs as the server's user, which other
            users of the machine must not.
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
    """Read a token file.

    Raises:
        ValueError: the token is too short, or others may read the file.
        OSError: the file cannot be read.
    """
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: readable by others: chmod 600 {path}")
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"{path}: a token needs at least {MIN_TOKEN} ASCII characters: create "
            "one with openssl rand -base64 32"
        )
    return token


def cookie_name(request: Request) -> str:
    """Cookie name with the port: servers on one machine share cookies."""
    return f"digipath-{request.url.port or 0}"
