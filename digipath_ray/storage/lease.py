"""Exclusive use of a run directory: a file lock on disk, a lease in a bucket.

A lock is released when its process ends. A lease is an object that its holder rewrites
every RENEW_S; if it is not renewed for LEASE_S it can be taken over. Every write is
conditional on the version it replaces, so of two concurrent writers one fails. Ours
because filelock needs a file system and no bucket client offers leases on S3, GCS and
Azure alike.
"""

import contextlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url

log = logging.getLogger(__name__)

LEASE_S = 90.0
RENEW_S = 20.0
LOOK_S = 2.0


class HeldByOther(RuntimeError):  # noqa: N818 - named after the condition, not "Error"
    """Another process holds the directory; ``holder`` names it."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


@dataclass(kw_only=True)
class Held:
    """A directory held by this process; ``lost`` is set if it is taken over."""

    lost: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Hold a folder on disk or in a bucket.

    Raises:
        HeldByOther: another process holds it.
        OSError: the place cannot be written.
    """
    with (_leased if is_url(folder) else _locked)(folder) as held:
        yield held


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Held]:
    holder = folder / ".holder"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as e:
        raise HeldByOther(
            holder.read_text() if holder.exists() else "another process"
        ) from e
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}")
        yield Held()
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _leased(folder: Path) -> Iterator[Held]:
    lease = Lease(folder / "lease.json")
    lease.acquire()
    stop = threading.Event()
    renewer = threading.Thread(target=lease.keep, args=(stop,), daemon=True)
    renewer.start()
    try:
        yield lease.held
    finally:
        stop.set()
        renewer.join()
        lease.release()


class Lease:
    """The lease object of a folder in a bucket: its holder and expiry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = Held()
        self._token = uuid.uuid4().hex
        self._etag: str | None = None

    def acquire(self) -> None:
        """Acquire the lease, taking over an expired one.

        Raises:
            HeldByOther: its holder renews it.
            OSError: the bucket cannot be accessed.
        """
        found = self._look()
        if found is not None and not found.is_dead():
            log.warning(
                "%s is leased by %s: waiting up to %.0f s for it to renew or expire",
                self.path.parent,
                found.holder,
                LEASE_S,
            )
            self._await_end(found)
        if not self._write(over=None if found is None else found.etag):
            now = self._look()
            raise HeldByOther("another process" if now is None else now.holder)

    def _await_end(self, found: "Found") -> None:
        """Wait until the lease expires.

        Raises:
            HeldByOther: it was renewed in the meantime.
        """
        until = time.monotonic() + LEASE_S
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            now = self._look()
            if now is None:  # released
                return
            if now.etag != found.etag:
                raise HeldByOther(now.holder)

    def _look(self) -> "Found | None":
        """Read the lease; None if there is none."""
        try:
            etag = bucket.head(self.path).etag
            record = json.loads(bucket.get(self.path))
        except FileNotFoundError:
            return None
        except ValueError:
            record = {}
        return Found(
            etag=etag,
            token=str(record.get("token")),
            pid=int(record.get("pid", -1)),
            host=str(record.get("host", "another machine")),
        )

    def _write(self, *, over: str | None) -> bool:
        """Write the lease over one version of it; False if that was replaced."""
        record = {"token": self._token, "pid": os.getpid(), "host": platform.node()}
        record["renewed"] = datetime.now(UTC).isoformat()
        try:
            self._etag = bucket.put_if(
                self.path, json.dumps(record).encode(), etag=over
            )
        except FileExistsError:
            # Still ours if only the response to our own write was lost.
            now = self._look()
            if now is None or now.token != self._token:
                return False
            self._etag = now.etag
        return True

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until ``stop``; sets :attr:`held` lost if taken over."""
        renewed = time.monotonic()
        while not stop.wait(RENEW_S):
            try:
                if not self._write(over=self._etag):
                    self.held.lost.set()
                    return
                renewed = time.monotonic()
            except OSError:  # unreachable for now; may recover before the lease expires
                if time.monotonic() - renewed > LEASE_S:
                    self.held.lost.set()
                    return

    def release(self) -> None:
        """Release the lease if it is still ours."""
        with contextlib.suppress(OSError):
            found = self._look()
            if found is not None and found.token == self._token:
                self.path.unlink()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A lease as read from the bucket."""

    etag: str
    token: str
    pid: int
    host: str

    @property
    def holder(self) -> str:
        """The holder, for messages."""
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        return self.host == platform.node() and not psutil.pid_exists(self.pid)
