"""Signals that end a run early, and a lost head or node of Ray: all come as exceptions.

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
from typing import Any

import psutil
import ray
from ray._private import worker

from digipath_ray.distributed.start import ENDING
from digipath_ray.run.failure import STOPPED, RunStopped

INSIST_S = 5.0
"""Seconds after which an interrupt that was dropped is repeated."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
RECONNECT_S = 60.0
"""How long Ray waits for a head that is gone, before it ends the process itself."""
SHARE = 0.7
"""Share of that time after which a run ends by itself."""
RAYLET_GONE = (
    "Ray's process of this node (raylet) has ended, killed perhaps for want of memory: "
    "give the same command again; it goes on from what is finished"
)
RAYLET_LOOK_S = 0.02
RAYLET_PATIENCE_S = 2.0
"""How often the raylet is looked at; how long to notice and, again, to end may take."""


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
    """Handle interrupts until the context is left, but those that another program does.

    Afterwards they interrupt as Ctrl-C does: of Ray's own handlers one prints a trace
    of C++, and may abort, and one exits with 15.
    """
    interrupts = Interrupts(silence)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    # Each by itself: behind a shell's "&" SIGINT is ignored, and SIGTERM is not.
    taken = [number for number in ENDING if _is_free(signal.getsignal(number))]
    for number in taken:
        signal.signal(number, interrupts.handle)
    node = raylet_pid()
    if signal.SIGTERM in taken:  # by which a watch wakes the main thread
        for watch, of in ((watch_head, head_address()), (watch_raylet, node)):
            threading.Thread(target=watch, args=(interrupts, of), daemon=True).start()
    try:
        yield interrupts
    except ray.exceptions.LocalRayletDiedError as e:
        if node is None or is_alive(node):  # of another node, where a task was
            raise
        raise RunStopped(RAYLET_GONE) from e
    finally:
        interrupts.over.set()
        for number in taken:
            signal.signal(number, signal.default_int_handler)


def _is_free(handler: Any) -> bool:
    """Whether nobody but Python and Ray handles a signal; not if it is ignored."""
    free = (signal.default_int_handler, signal.SIG_DFL)
    return handler in free or getattr(handler, "__module__", "") == worker.__name__


def head_address() -> str:
    """Host and port of the cluster's head."""
    return str(ray.get_runtime_context().gcs_address)


def raylet_pid() -> int | None:
    """The process of Ray's node here; None if it cannot be told."""
    socket_name = worker.global_worker.node.raylet_socket_name
    for process in psutil.process_iter(["name", "cmdline"]):
        named = f"--raylet_socket_name={socket_name}" in (process.info["cmdline"] or ())
        if process.info["name"] == "raylet" and named:
            return int(process.pid)
    return None


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def watch_raylet(interrupts: Interrupts, pid: int | None) -> None:
    """Stop the run when Ray's process of this node is gone.

    Ray itself would end this process some seconds later, without a word and with exit
    status 1, which says that all is done but some slides.
    """
    if pid is None:
        return
    while is_alive(pid):
        if interrupts.over.wait(RAYLET_LOOK_S):
            return
    _stop(interrupts, RAYLET_GONE, RAYLET_PATIENCE_S)


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
    _stop(interrupts, reason, (1 - SHARE) * patience / 3)


def _stop(interrupts: Interrupts, reason: str, seconds: float) -> None:
    """Stop the run, and see that it ends as such: better so than by Ray.

    The main thread has ``seconds`` to wake up, and as many again for tables and lease;
    in a process that has left Ray meanwhile nothing more is done.
    """
    interrupts.stop(reason)
    if interrupts.over.wait(seconds):
        time.sleep(seconds)
        if not ray.is_initialized():
            return
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
