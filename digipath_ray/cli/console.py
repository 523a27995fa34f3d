"""Where commands print. Nothing that is printed can end a run."""

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import IO, NoReturn, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from digipath_ray.words import printable

FILE_WIDTH = 200
"""Columns of what is printed to a file or a pipe, where nothing says how many."""

END_S = 30.0
"""How long Ray may take to leave at the end of a command."""


class Output(io.TextIOBase):
    """The standard output or error of the moment, without its errors.

    A character that its encoding lacks is printed as ``?``. What can no longer be
    written (a closed pipe, a full disk) is dropped: exit status is about slides.
    """

    def __init__(self, name: str) -> None:
        """Remember which: stdout or stderr."""
        self.name = name

    @property
    def stream(self) -> TextIO:
        """Where to; rich puts a stand-in that prints here in its place."""
        stream = getattr(sys, self.name)
        found: TextIO = getattr(stream, "rich_proxied_file", stream)
        return found

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self.stream.encoding or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return self.stream.isatty()
        return False

    def fileno(self) -> int:
        """Number of the stream's file."""
        return self.stream.fileno()

    def write(self, text: str) -> int:
        """Print what can be printed."""
        with contextlib.suppress(OSError, ValueError):
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                known = text.encode(self.encoding, "replace").decode(self.encoding)
                self.stream.write(known)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()


class PlainConsole(Console):
    """A console on which texts of slides and manifests control nothing.

    Rich escapes its own markup alone, and prints an ESC that stands in a text.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments, their texts printable."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else Segment(printable(segment.text), segment.style)
            )


def console() -> Console:
    """The terminal, or the file or pipe in its place."""
    out = Output("stdout")
    wide = None if out.isatty() else FILE_WIDTH
    return PlainConsole(
        file=cast(IO[str], out), soft_wrap=True, width=wide, highlight=False
    )


def error_console() -> Console:
    """Where errors go."""
    out = cast(IO[str], Output("stderr"))
    return PlainConsole(file=out, soft_wrap=True, highlight=False)


def leave_quietly() -> None:
    """Flush at the end; Python itself would exit with 120 for a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end_process(code: int) -> NoReturn:
    """Exit; where Ray was used, with no more than what must be done at the end.

    Python would take itself apart beside Ray's threads, some of which print and some of
    which are C++: now and then one of them aborts the process, and its status is lost.
    What waits for the end of the process is done first, for END_S at most.
    """
    if "ray" not in sys.modules:
        sys.exit(code)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    late = threading.Timer(END_S, os._exit, (code,))
    late.daemon = True
    late.start()
    atexit._run_exitfuncs()
    leave_quietly()
    os._exit(code)
