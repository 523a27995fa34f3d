"""The process that serves the viewer: a socket, uvicorn, and the address to open."""

import errno
import logging
import os
import socket
import sys
import webbrowser
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from digipath_ray.viewer.server.auth import Trust, is_loopback

log = logging.getLogger(__name__)

FIRST_PORT = 8000
PORTS = 50
"""Tried one after the other where the user names none."""
CONNECTIONS = 1024
END_S = 2
"""How long open pages are waited for at the end."""


def bind(host: str, port: int | None) -> socket.socket:
    """A socket that listens.

    Args:
        host: name or address.
        port: 0 takes any that is free, None the first free one from FIRST_PORT on.

    Raises:
        ValueError: the host is unknown or not this machine's, or the port taken.
    """
    ports = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,)
    for number in ports:
        try:
            found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
        except socket.gaierror as e:
            raise ValueError(f"--host {host}: unknown here: {e.strerror}") from e
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as e:
            listener.close()
            if port is None and e.errno == errno.EADDRINUSE:
                continue
            why = e.strerror or str(e)
            raise ValueError(
                f"port {number} of {host} cannot be used ({why}): name another --port, "
                "or a --host that is this machine's"
            ) from e
        listener.listen(256)
        return listener
    last = FIRST_PORT + PORTS - 1
    raise ValueError(f"ports {FIRST_PORT} to {last} are all taken: name a --port")


def address_of(listener: socket.socket, trust: Trust, *, host: str) -> str:
    """The address to open; with the token, which a browser never sends in a URL."""
    port = listener.getsockname()[1]
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    fragment = "" if trust.token is None else f"#token={trust.token}"
    return f"http://{name}:{port}/{fragment}"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until the process is told to end.

    No access log: what is looked at is nobody's business, and it would hold every tile.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_for_users)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=END_S,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _is_for_users(record: logging.LogRecord) -> bool:
    """Not so: that a page was still open at the end."""
    return not record.getMessage().startswith("Cancel ")


def open_browser(
    address: str, *, host: str, opens: Callable[[str], bool] = webbrowser.open
) -> bool:
    """Open the address where there is a screen to see it on; whether it was."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return screen and is_loopback(host) and opens(address)
