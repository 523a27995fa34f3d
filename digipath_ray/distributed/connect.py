"""Connecting to Ray, and leaving it."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import ray
import ray.data

from digipath_ray.run.failure import RunError

RAY_ALONE = ("ray.data.exceptions", "ray.data._internal.progress")


BOTH_ASKED = "Specifying both num_cpus and num_gpus"
"""How Ray Data begins to say that it finds this experimental."""


def connect() -> bool:
    """Join the cluster that RAY_ADDRESS, a job or this machine has, else start one.

    Returns:
        False if this process was in a cluster already; who joined it is to leave it.

    Raises:
        RunError: nothing answers there, or Ray does not start.
    """
    _mute_ray_data()
    if ray.is_initialized():
        return False
    _check_answers(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Readers that wait a second for the networks would be ended and started again, all
    # their imports again: Ray keeps no more idle workers than there are CPUs.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    # Ray's C++ part reports an error of Ray's own for every pool (ray issue 57733), and
    # silencing it logs a line of its own.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with muted():
            ray.init(
                log_to_driver=False, include_dashboard=False, logging_level="ERROR"
            )
    except Exception as e:  # Ray raises just that when its node is slow to start
        raise RunError(f"Ray does not start: {e}") from e
    return True


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """In a cluster as :func:`connect` says; an interrupt leaves it if this joined it.

    From an interrupt on nothing is printed until the cluster is left: Ray tells, in
    color and on standard output, of every actor that it ends itself.
    """
    joined = connect()
    with contextlib.ExitStack() as silence, _on_interrupt(silence):
        try:
            yield
        except KeyboardInterrupt:
            if joined:
                _leave()
            raise


def _leave() -> None:
    """Leave the cluster, and let no second interrupt come between."""
    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ray.shutdown()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _on_interrupt(silence: contextlib.ExitStack) -> Iterator[None]:
    """Mute this process when it is interrupted, until ``silence`` is left."""
    loud = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal loud
        if loud:
            loud = False
            silence.enter_context(muted())
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # another program's, or ignored as in the background of a shell
        return
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_answers(address: str) -> None:
    """Refuse an address host:port where nothing listens: Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as e:
        raise RunError(
            f"no Ray head answers at RAY_ADDRESS={address} ({e}): start it, or unset "
            "RAY_ADDRESS to run on this machine alone"
        ) from e


def _mute_ray_data() -> None:
    """Keep off the terminal what is news to Ray's developers; its log file has it."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Not so: that Ray's bars are off, errors be reported to Ray, and GPUs are new."""
    message = record.getMessage()
    return not (record.name.startswith(RAY_ALONE) or message.startswith(BOTH_ASKED))


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
