"""``digipath view``: a run, or slides before any run, in a browser."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from digipath_ray.cli.console import console
from digipath_ray.cli.options import with_specs
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.words import count

IN_THE_OPEN = (
    "Whoever has this address sees the slides, and so does whoever listens on the "
    "network: HTTP is not encrypted. A tunnel is: "
    "ssh -L 8000:localhost:8000 this-machine"
)


@with_specs
def view(
    *,
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_SLIDES",
            help="the directory of a run, or slides as 'run' takes them; s3://... too",
            show_default=False,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="another run, to compare with", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="where to listen; off this machine with a token")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            help="default: the first free one from 8000 on; 0: any",
            show_default=False,
            min=0,
            max=65535,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="file with the token to ask for; default: one is made up where needed",
            show_default=False,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="a further name that browsers reach it by, as through a proxy",
            show_default=False,
        ),
    ] = None,
    allow_run: Annotated[
        bool,
        typer.Option(
            "--allow-run",
            help="runs may be started from the page, with a token on this machine too",
        ),
    ] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="only print the address")
    ] = False,
    annotations: AnnotationSpec,
) -> int:
    """Show a run in a browser, finished or not, or slides without a run.

    Served from this machine, with nothing from the network.
    """
    return show_viewer(
        console(),
        slides,
        against=against,
        host=host,
        port=port,
        token_file=token_file,
        allowed_hosts=allowed_host or (),
        allow_run=allow_run,
        browser=not no_browser,
        annotations=annotations,
    )


def show_viewer(
    console: Console,
    slides: Sequence[str],
    *,
    against: str | None,
    host: str,
    port: int | None,
    token_file: Path | None,
    allowed_hosts: Sequence[str],
    allow_run: bool,
    browser: bool,
    annotations: AnnotationSpec,
) -> int:
    """Serve until interrupted, and print the address to open; 0.

    Raises:
        ValueError: nothing to show, a port that is taken, a token that others may read,
            or the extra ``viewer`` is not installed.
        OSError: what is to be shown cannot be read.
    """
    try:
        from digipath_ray.viewer.app import make_app
        from digipath_ray.viewer.serve import address_of, bind, open_browser, serve
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ValueError(
            "the viewer needs starlette and uvicorn, which are not installed: "
            "pip install 'digipath_ray[viewer]'"
        ) from e
    from digipath_ray.viewer.collection.collection import open_collection
    from digipath_ray.viewer.queue.queue import Starts
    from digipath_ray.viewer.server.auth import is_loopback, make_trust, read_token

    collection = open_collection(slides, against=against)
    token = None if token_file is None else read_token(token_file)
    trust = make_trust(host, token=token, allowed=allowed_hosts, starts_runs=allow_run)
    starts = Starts(Path.cwd(), begun=collection.follow) if allow_run else None
    app = make_app(collection, trust=trust, annotations=annotations, starts=starts)
    with bind(host, port) as listener:
        address = address_of(listener, trust, host=host)
        many = count(len(collection.latest.entries), "slide")
        console.print(f"{escape(collection.latest.title)}: {many}")
        shown = address if token_file is None else address.partition("#")[0]
        with shown_address(console, shown):
            if not is_loopback(host):
                console.print(IN_THE_OPEN)
            if browser:
                open_browser(address, host=host)
            serve(app, listener)
    return 0


@contextlib.contextmanager
def shown_address(console: Console, address: str) -> Iterator[None]:
    """Print an address; a token in it goes to a terminal alone, and never to a log.

    Others may read the log of a service or of a batch job. There the token is in a file
    of the user's own, for as long as this lasts.

    Raises:
        ValueError: the file cannot be written.
    """
    shown, _, token = address.partition("#")
    with contextlib.ExitStack() as kept:
        if token and console.is_terminal:
            shown = address
        elif token:
            file = kept.enter_context(kept_address(address))
            console.print(f"The address with its token: {escape(str(file))}")
        console.print(f"[bold]{escape(shown)}[/]   (Ctrl-C ends it)", soft_wrap=True)
        yield


@contextlib.contextmanager
def kept_address(address: str) -> Iterator[Path]:
    """A file that the user alone can read, with the address; removed at the end.

    It lies below the home, which a batch job's node shares with where one logs in.

    Raises:
        ValueError: it cannot be written.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state) / "digipath_ray"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened, name = tempfile.mkstemp(  # of mode 0600
            dir=folder, prefix="view-", suffix=".address"
        )
    except OSError as e:
        raise ValueError(
            f"{folder}: no file with the token can be written there ({e.strerror}): "
            "give one by --token-file"
        ) from e
    with ended_by_sigterm(), os.fdopen(opened, "w", encoding="utf-8") as file:
        try:
            file.write(f"{address}\n")
            file.flush()
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Exit by an exception on SIGTERM, so that temporary files are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
