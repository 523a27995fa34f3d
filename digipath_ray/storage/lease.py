"""One run at a time in a directory: a lock on a disk, a lease in a bucket.

A lock ends with its process, however that ends. A lease is an object that its holder
writes anew every RENEW_S; one that nobody renews for LEASE_S is taken over. Every write
names the version that it replaces, so of two who try at once the store refuses one.
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


class HeldByOther(RuntimeError):  # noqa: N818 - says what is wrong, not "Error"
    """Somebody else holds the directory; ``holder`` says who."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


@dataclass(kw_only=True)
class Held:
    """A directory that this process holds; ``lost`` once somebody has taken it over."""

    lost: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Hold a folder on a disk or in a bucket.

    Raises:
        HeldByOther: somebody else does.
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
    """The object in a bucket that says who holds its folder, and until when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = Held()
        self._token = uuid.uuid4().hex
        self._etag: str | None = None

    def acquire(self) -> None:
        """Take the lease; one that nobody renews is taken over when it has run out.

        Raises:
            HeldByOther: somebody renews it.
            OSError: as :func:`digipath_ray.storage.bucket.spoken`.
        """
        found = self._look()
        if found is not None and not found.is_dead():
            log.warning(
                "%s is leased by %s: waiting up to %.0f s for a sign of life",
                self.path.parent,
                found.holder,
                LEASE_S,
            )
            self._await_end(found)
        if not self._write(over=None if found is None else found.etag):
            now = self._look()
            raise HeldByOther("another process" if now is None else now.holder)

    def _await_end(self, found: "Found") -> None:
        """Return when the lease has run out.

        Raises:
            HeldByOther: it was renewed meanwhile.
        """
        until = time.monotonic() + LEASE_S
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            now = self._look()
            if now is None:  # given up
                return
            if now.etag != found.etag:
                raise HeldByOther(now.holder)

    def _look(self) -> "Found | None":
        """What the lease says now; None where there is none."""
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
        """Write the lease anew over one version of it; False if that is gone."""
        record = {"token": self._token, "pid": os.getpid(), "host": platform.node()}
        record["renewed"] = datetime.now(UTC).isoformat()
        try:
            self._etag = bucket.put_if(
                self.path, json.dumps(record).encode(), etag=over
            )
        except FileExistsError:
            # Ours all the same, if the answer to our own write was lost on its way.
            now = self._look()
            if now is None or now.token != self._token:
                return False
            self._etag = now.etag
        return True

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until ``stop``; :attr:`held` says if it was lost."""
        renewed = time.monotonic()
        while not stop.wait(RENEW_S):
            try:
                if not self._write(over=self._etag):
                    self.held.lost.set()
                    return
                renewed = time.monotonic()
            except OSError:  # out of reach for now; it may come back in time
                if time.monotonic() - renewed > LEASE_S:
                    self.held.lost.set()
                    return

    def release(self) -> None:
        """Give the lease up, if it is still ours."""
        with contextlib.suppress(OSError):
            found = self._look()
            if found is not None and found.token == self._token:
                self.path.unlink()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A lease as it stands."""

    etag: str
    token: str
    pid: int
    host: str

    @property
    def holder(self) -> str:
        """Who holds it, as another user is told."""
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Whether its holder was a process of this machine that has ended."""
        return self.host == platform.node() and not psutil.pid_exists(self.pid)
