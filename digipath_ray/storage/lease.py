"""Exclusive use of a run directory, on a disk or in a bucket: a lease.

A lease is a small file or object that its holder rewrites every RENEW_S; if it is not
renewed for LEASE_S it can be taken over, so that of a dead host runs out. Every write
is conditional on the version it replaces, so of two concurrent writers one fails. Ours
because no bucket client offers leases on S3, GCS and Azure alike.

On a disk the system's own lock comes first where there is one (flock): it decides at
once between processes of one machine. File systems of the network may lack it, or
grant it to every machine; the lease does not depend on it.
"""

import contextlib
import errno
import hashlib
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

from digipath_ray.storage import bucket
from digipath_ray.storage.files import TEMPORARY, is_url

log = logging.getLogger(__name__)

LEASE_S = 90.0
RENEW_S = 20.0
LOOK_S = 2.0
SETTLE_S = 0.5
"""How long after a takeover a lease is looked at again."""
START_S = 2.0
"""How far two statements of when a process started may differ."""
LENGTH = 512
"""Bytes of a lease's file, so that it can be rewritten in place."""
LOCK = ".lock"
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""What file systems without hard links say."""


class HeldByOther(RuntimeError):  # noqa: N818 - named after the condition, not "Error"
    """Another process holds the directory.

    Attributes:
        holder: its name.
        fix: what to do if it has gone, with the file to look at.
    """

    def __init__(self, holder: str, fix: str) -> None:
        super().__init__(f"held by {holder}: {fix}")
        self.holder = holder
        self.fix = fix


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
    with contextlib.ExitStack() as stack:
        if not is_url(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
        yield stack.enter_context(_leased(folder))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the system's lock of a folder, where its file system has one."""
    path = folder / LOCK
    with path.open("ab") as file:
        if not take_lock(file.fileno(), path):
            found = Lease(folder).look()
            raise HeldByOther(
                "another process" if found is None else found.holder,
                f"if it is gone for certain, and so is its machine, delete {path}",
            )
        yield  # closing the file releases the lock


def take_lock(fd: int, path: Path) -> bool:
    """Take the system's lock of a file without waiting; False if another has it.

    Where there is none (ENOSYS and ENOLCK, on some NFS, Lustre and FUSE mounts) this
    says so in the log: a lease has to do.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        log.info("%s: no locks on this file system (%s): a lease alone", path, e)
    return True


@contextlib.contextmanager
def _leased(folder: Path) -> Iterator[Held]:
    lease = Lease(folder)
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
    """The lease of a folder, on a disk or in a bucket: its holder and expiry."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lease.json"
        self.held = Held()
        self._token = uuid.uuid4().hex
        self._etag: str | None = None

    def acquire(self) -> None:
        """Acquire the lease, taking over an expired one.

        Raises:
            HeldByOther: its holder renews it.
            OSError: the bucket cannot be accessed.
        """
        found = self.look()
        if found is not None and not found.is_dead():
            log.warning(
                "%s is leased by %s: waiting up to %.0f s for it to renew or expire",
                self.path.parent,
                found.holder,
                LEASE_S,
            )
            self._await_end(found)
        took = self._write(over=None if found is None else found.etag)
        if not took or (found is not None and not self._stays()):
            raise self._held_by(self.look())

    def _stays(self) -> bool:
        """Whether a lease that was taken over is ours once others have settled.

        On a disk one that came later may have moved it aside for a moment, and a third
        have found the place empty.
        """
        if is_url(self.path):
            return True
        time.sleep(SETTLE_S)
        now = self.look()
        return now is not None and now.token == self._token

    def _await_end(self, found: "Found") -> None:
        """Wait until the lease expires.

        Raises:
            HeldByOther: it was renewed in the meantime.
        """
        until = time.monotonic() + LEASE_S
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            now = self.look()
            if now is None:  # released
                return
            if now.etag != found.etag:
                raise self._held_by(now)

    def look(self) -> "Found | None":
        """Read the lease; None if there is none."""
        try:
            etag, text = self._read()
            record = json.loads(text)
        except FileNotFoundError:
            return None
        except ValueError:
            record = {}
        return Found(
            etag=etag,
            token=str(record.get("token")),
            pid=int(record.get("pid", -1)),
            host=str(record.get("host", "another machine")),
            started=float(record.get("since_boot", -1)),
        )

    def _held_by(self, found: "Found | None") -> HeldByOther:
        return HeldByOther(
            "another process" if found is None else found.holder,
            f"it renews {self.path} every {RENEW_S:.0f} s",
        )

    def _read(self) -> tuple[str, bytes]:
        """Version and content of the lease."""
        if is_url(self.path):
            return bucket.head(self.path).etag, bucket.get(self.path)
        return _version(data := self.path.read_bytes()), data

    def _put_if(self, data: bytes, *, etag: str | None) -> str:
        """Write the lease over one version of it, or where there is none."""
        if is_url(self.path):
            return bucket.put_if(self.path, data, etag=etag)
        data = data.ljust(LENGTH)
        if etag is not None and etag == self._etag:
            return _renew_file(self.path, data, etag=etag)
        return _put_file_if(self.path, data, etag=etag)

    def _write(self, *, over: str | None) -> bool:
        """Write the lease over one version of it; False if that was replaced."""
        record: dict[str, object] = {
            "token": self._token,
            "pid": os.getpid(),
            "host": platform.node(),
        }
        record["since_boot"] = seconds_after_boot(os.getpid())
        record["renewed"] = datetime.now(UTC).isoformat()
        try:
            self._etag = self._put_if(json.dumps(record).encode(), etag=over)
        except FileExistsError:
            # Still ours if only the response to our own write was lost.
            now = self.look()
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
            found = self.look()
            if found is not None and found.token == self._token:
                self.path.unlink()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A lease as read from the bucket."""

    etag: str
    token: str
    pid: int
    host: str
    started: float = -1

    @property
    def holder(self) -> str:
        """The holder, for messages."""
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        if self.host != platform.node():
            return False
        try:
            started = seconds_after_boot(self.pid)
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False
        # Another process may have its number by now.
        return self.started > 0 and abs(started - self.started) > START_S


def seconds_after_boot(pid: int) -> float:
    """When a process started, by a clock that nobody sets.

    By the time of day a live process would seem to be another one once the clock has
    been set; psutil tells only that on other systems than Linux.

    Raises:
        psutil.Error: there is no such process, or nobody may know.
    """
    process = psutil.Process(pid)
    if not psutil.LINUX:
        return process.create_time()
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except FileNotFoundError as e:
        raise psutil.NoSuchProcess(pid) from e
    except OSError as e:
        raise psutil.AccessDenied(pid) from e
    after_name = text.rpartition(")")[2].split()  # from the third field on
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def _version(data: bytes) -> str:
    """The version of a file: its content, which says when it was renewed."""
    return hashlib.sha256(data).hexdigest()


def _renew_file(path: Path, data: bytes, *, etag: str) -> str:
    """Rewrite a file that is ours, so that it is there at every moment.

    Raises:
        FileExistsError: it is another's by now.
        OSError: the folder cannot be written.
    """
    try:
        ours = _version(path.read_bytes()) == etag
    except FileNotFoundError:
        ours = False
    if not ours:
        raise FileExistsError(f"{path} was taken over")
    temporary = _beside(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:  # a full disk has room for what is there already
        with path.open("r+b") as file:
            file.write(data)
    finally:
        temporary.unlink(missing_ok=True)
    return _version(data)


def _beside(path: Path) -> Path:
    """A new name in the same folder."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.{path.name}")


def _put_file_if(path: Path, data: bytes, *, etag: str | None) -> str:
    """Write a file only where there is none, or only over one version of it.

    Raises:
        FileExistsError: there is one, or another version.
        OSError: the folder cannot be written.
    """
    temporary = _beside(path)
    try:
        temporary.write_bytes(data)
        if etag is not None:
            _take_away(path, etag, temporary.with_suffix(".old"))
        # Of many that do this one succeeds, on NFS too; a rename would replace.
        os.link(temporary, path)
    except OSError as e:
        if isinstance(e, FileExistsError):
            raise
        if e.errno not in NO_LINKS or path.exists():
            raise
        with path.open("xb") as file:
            file.write(data)
    finally:
        temporary.unlink(missing_ok=True)
    return _version(data)


def _take_away(path: Path, etag: str, aside: Path) -> None:
    """Move a version of a file aside and remove it; put another one back."""
    try:
        if _version(path.read_bytes()) != etag:
            raise FileExistsError(f"{path} was written by another process")
        path.rename(aside)
    except FileNotFoundError:
        return
    try:
        if _version(aside.read_bytes()) != etag:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            raise FileExistsError(f"{path} was written by another process")
    finally:
        aside.unlink(missing_ok=True)
