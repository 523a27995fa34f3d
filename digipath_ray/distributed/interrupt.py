"""Signals that end a run early, and a lost head of Ray: both come as exceptions.

Both reach the main thread, also where it waits in Ray, and the run ends as it should:
tables written, lease given back, a word on how to go on.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import ray

from digipath_ray.distributed.start import ENDING
from digipath_ray.run.failure import STOPPED, RunStopped

INSIST_S = 5.0
"""Seconds after which an interrupt that was dropped is repeated."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
RECONNECT_S = 60.0
"""How long Ray waits for a head that is gone, before it ends the process itself."""
SHARE = 0.7
"""Share of that time after which a run ends by itself."""


class Interrupts:
    """Turns SIGINT and SIGTERM into exceptions of the main thread.

    Attributes:
        over: set once the exception has arrived, or the run has ended.
    """

    def __init__(self, silence: contextlib.ExitStack) -> None:
        """From the first interrupt on nothing is printed until ``silence`` is left."""
        self.over = threading.Event()
        self._silence = silence
        self._main = threading.get_ident()
        self._loud = True
        self._reason: str | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise what ends the run.

        Raises:
            KeyboardInterrupt: for a signal.
            RunStopped: for :meth:`stop`.
        """
        if self._reason is not None:
            raise RunStopped(self._reason)
        if self._loud:
            self._loud = False
            self._silence.enter_context(muted())
            threading.Thread(target=self._insist, args=(number,), daemon=True).start()
        raise KeyboardInterrupt

    def _insist(self, number: int) -> None:
        """Repeat an interrupt until it arrives.

        One that comes while a finalizer or a callback of C++ runs is dropped with the
        exception that it raises there.
        """
        while not self.over.wait(INSIST_S):
            signal.pthread_kill(self._main, number)

    def stop(self, reason: str) -> None:
        """Have the main thread raise RunStopped; called from another one."""
        self._reason = reason
        signal.pthread_kill(self._main, signal.SIGTERM)


@contextlib.contextmanager
def on_interrupt(silence: contextlib.ExitStack) -> Iterator[Interrupts]:
    """Handle interrupts until the context is left, unless another program does."""
    interrupts = Interrupts(silence)
    if (
        threading.current_thread() is not threading.main_thread()
        # Another program's, or ignored as in the background of a shell.
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts.handle) for number in ENDING}
    head = ray.get_runtime_context().gcs_address
    threading.Thread(target=watch_head, args=(interrupts, head), daemon=True).start()
    try:
        yield interrupts
    finally:
        interrupts.over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_head(interrupts: Interrupts, head: str) -> None:
    """Stop the run when Ray's head is gone.

    Ray itself would end this process after RECONNECT_S without a word, with exit status
    1, which says that all is done but some slides.

    Args:
        interrupts: of the run.
        head: host and port.
    """
    host, _, port = head.rpartition(":")
    place = host.strip("[]"), int(port)  # of an IPv6 address, too
    patience = float(os.environ.get(RECONNECT, RECONNECT_S))
    seen = time.monotonic()
    while not interrupts.over.wait(min(2.0, patience / 10)):
        with contextlib.suppress(OSError), socket.create_connection(place, 2.0):
            seen = time.monotonic()
        if time.monotonic() - seen > SHARE * patience:
            break
    else:
        return
    reason = (
        f"Ray's head at {head} has not answered for {SHARE * patience:.0f} s: "
        "start it again if it is not of this run's own, then give the same command"
    )
    interrupts.stop(reason)
    # Where the main thread does not wake up: better ended so than by Ray.
    if not interrupts.over.wait((1 - SHARE) * patience / 2):
        os.write(2, f"Error: {reason}\n".encode())
        os._exit(STOPPED)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Drop what Python and C++ write to standard output and error; exceptions come.

    Nothing is flushed on entry, which may lie in the middle of a write.
    """
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    try:
        with open(os.devnull, "w") as nowhere:
            for fd in kept:
                os.dup2(nowhere.fileno(), fd)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
