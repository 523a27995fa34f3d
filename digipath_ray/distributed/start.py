"""A start of Ray that may wait: it says what for, and a signal ends it at any time.

Ray waits in C++, where Python's own signal handlers do not run. Threads of Python do.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

FIRST_WORD_S, NEXT_WORD_S = 20.0, 60.0
"""Seconds after which a start says what it waits for, and says it again."""
GRACE_S = 3.0
"""Seconds in which Ray may end by itself after a signal."""
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def announce_wait(what: str) -> Iterator[None]:
    """Say on standard error, as it is now, that a start still waits for ``what``."""
    over = threading.Event()
    started = time.monotonic()

    def speak() -> None:
        wait = FIRST_WORD_S
        while not over.wait(wait):
            seconds = time.monotonic() - started
            _say(f"waiting for {what} since {seconds:.0f} s; Ctrl-C ends it", stderr)
            wait = NEXT_WORD_S

    stderr = os.dup(2)  # what is muted meanwhile is another
    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        os.close(stderr)


@contextlib.contextmanager
def ends_on_signal() -> Iterator[None]:
    """End this process at a SIGINT or SIGTERM, whatever its main thread waits in.

    The system's handler writes the signal's number to a socket as soon as it comes; a
    thread reads it, and ends the process unless Python's handler has done so meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    over = threading.Event()
    stderr = os.dup(2)

    def watch() -> None:
        while number := reader.recv(1):
            if number[0] in ENDING and not over.wait(GRACE_S):
                _say("Interrupted while Ray was starting", stderr)
                os._exit(128 + number[0])

    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        writer.close()
        thread.join()
        reader.close()
        os.close(stderr)


def _say(text: str, stream: int) -> None:
    """Print a line that cannot fail."""
    with contextlib.suppress(OSError):
        os.write(stream, f"{text}\n".encode())
