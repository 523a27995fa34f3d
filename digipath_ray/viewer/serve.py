"""Serves the viewer: socket, uvicorn and the URL to open."""

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
"""Ports tried in turn if none is given."""
CONNECTIONS = 1024
END_S = 2
"""Seconds to wait for open pages at shutdown."""


def bind(host: str, port: int | None) -> socket.socket:
    """Bind a listening socket.

    Args:
        host: name or address.
        port: 0 for any free port, None for the first free one from FIRST_PORT.

    Raises:
        ValueError: the host is unknown or not of this machine, or the port is in use.
    """
    ports = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,)
    for number in ports:
        try:
            found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
        except socket.gaierror as e:
            raise ValueError(f"--host {host}: cannot be resolved: {e.strerror}") from e
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
                f"cannot bind port {number} of {host} ({why}): choose another "
                "--port, or a --host of this machine"
            ) from e
        listener.listen(256)
        return listener
    last = FIRST_PORT + PORTS - 1
    raise ValueError(f"ports {FIRST_PORT} to {last} are all in use: choose a --port")


def address_of(listener: socket.socket, trust: Trust, *, host: str) -> str:
    """URL to open; the token is in the fragment, which browsers never send."""
    port = listener.getsockname()[1]
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    fragment = "" if trust.token is None else f"#token={trust.token}"
    return f"http://{name}:{port}/{fragment}"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until the process is terminated.

    No access log, for privacy, and because it would list every tile.
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
    """Hides uvicorn's message about pages open at shutdown."""
    return not record.getMessage().startswith("Cancel ")


def open_browser(
    address: str, *, host: str, opens: Callable[[str], bool] = webbrowser.open
) -> bool:
    """Open the URL if there is a display; returns whether it was opened."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return screen and is_loopback(host) and opens(address)
