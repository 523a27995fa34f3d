"""Who holds a run directory on a disk, with and without locks of the file system."""

import ctypes.util
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.storage import lease
from digipath_ray.storage.bucket import StorageError
from digipath_ray.storage.cache import _Lock
from digipath_ray.storage.lease import HeldByOther, hold
from tests.leases import race_for

HOLD = """
import sys, time
from pathlib import Path
from digipath_ray.storage import lease

lease.LEASE_S, lease.RENEW_S, lease.LOOK_S = 1.5, 0.2, 0.1
with lease.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of 1.5 s, renewed every 0.2 s."""
    monkeypatch.setattr(lease, "LEASE_S", 1.5)
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)


@pytest.fixture(params=["locks", "none", "granted to all"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks, without, and with locks that exclude nobody."""

    def flock(fd: int, operation: int) -> None:
        if request.param == "none":
            raise OSError(errno.ENOLCK, "No locks available")

    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", flock)
    return str(request.param)


@contextmanager
def holder(
    folder: Path, seconds: float = 60, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def leave(folder: Path, **said: object) -> None:
    """The lease of a process that has ended without giving it up."""
    dead = {"token": "other", "pid": 1, "host": "elsewhere", **said}
    folder.mkdir(exist_ok=True)
    (folder / "lease.json").write_text(json.dumps(dead))


def test_a_second_run_is_refused_and_told_the_file(tmp_path: Path, locks: str) -> None:
    run = RunDirectory(tmp_path / "run")
    file = ".lock" if locks == "locks" else "lease.json"
    with holder(run.root) as process:
        with pytest.raises(RunError) as caught, run.lock():
            pass
        said = str(caught.value)
        assert f"{run.root} is in use by process {process.pid} on " in said
        assert f"{run.root}/{file}" in said
        assert "another --out" in said
    with run.lock():
        pass
    assert not (run.root / "lease.json").exists()


def test_what_a_killed_process_held_is_free_at_once(
    tmp_path: Path, locks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1e9)
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold(tmp_path):
            said = json.loads((tmp_path / "lease.json").read_text())
    assert said["pid"] == os.getpid()


def test_a_number_that_another_process_has_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1e9)
    leave(tmp_path, host=lease.platform.node(), pid=os.getpid(), since_boot=0.5)
    with hold(tmp_path):
        record = json.loads((tmp_path / "lease.json").read_text())
        assert record["since_boot"] != 0.5, "ours, and not waited for"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_ends_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """The system's time of boot follows the clock, and with it when a process began."""
    with holder(tmp_path) as process:
        found = lease.Lease(tmp_path).look()
        boot = psutil.boot_time() + hours * 3600
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot)
        began = psutil.Process(process.pid).create_time()
        monkeypatch.undo()
        assert abs(began - psutil.Process(process.pid).create_time()) > 3000
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot)
        assert found is not None
        assert not found.is_dead()
    assert found.is_dead()


def test_a_takeover_that_another_has_overtaken_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, host=lease.platform.node(), pid=2**22 + 1)
    monkeypatch.setattr(lease.time, "sleep", lambda _: leave(tmp_path))
    with pytest.raises(HeldByOther), hold(tmp_path):
        raise AssertionError("two hold it")
    assert "other" in (tmp_path / "lease.json").read_text()


def test_the_lease_of_a_dead_host_runs_out(tmp_path: Path, locks: str) -> None:
    leave(tmp_path)
    started = time.monotonic()
    with hold(tmp_path) as held:
        assert time.monotonic() - started >= lease.LEASE_S
        assert not held.lost.wait(3 * lease.RENEW_S)
        assert "other" not in (tmp_path / "lease.json").read_text()


def test_of_many_at_once_one_gets_it(tmp_path: Path, locks: str) -> None:
    leave(tmp_path, host=lease.platform.node(), pid=2**22 + 1)
    assert race_for(tmp_path) == (1, 7)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_holder_learns_that_it_was_overtaken(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        leave(tmp_path)
        assert held.lost.wait(5)
    assert "other" in (tmp_path / "lease.json").read_text(), "not ours to remove"


def test_a_lease_is_there_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.001)
    with hold(tmp_path):
        end = time.monotonic() + 0.5
        seen = set()
        while time.monotonic() < end:
            seen.add(json.loads((tmp_path / "lease.json").read_text())["renewed"])
    assert len(seen) > 10


def test_a_full_disk_is_outlived(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this sandbox does not let mount a small disk")
    try:
        with hold(tmp_path) as held:
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "big").write_bytes(bytes(1 << 20))
            assert not held.lost.wait(3 * lease.LEASE_S)
        (tmp_path / "big").unlink()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_system_without_flock(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or ctypes.util.find_library("c") is None:
        pytest.skip("no C compiler")
    source = tmp_path / "flock.c"
    source.write_text(
        "#include <errno.h>\nint flock(int f, int o){ errno = ENOSYS; return -1; }\n"
    )
    shim = tmp_path / "flock.so"
    build = [compiler, "-shared", "-fPIC", "-o", str(shim), str(source)]
    subprocess.run(build, check=True)
    run = RunDirectory(tmp_path / "run")
    with (
        holder(run.root, LD_PRELOAD=str(shim)),
        pytest.raises(RunError, match=r"lease\.json every"),
        run.lock(),
    ):
        pass
    with run.lock():
        pass


def test_the_cache_names_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        _Lock(tmp_path / "key.lock") as lock,
        pytest.raises(StorageError, match="no locks on this file system") as caught,
    ):
        lock.take(shared=False)
    assert "DIGIPATH_CACHE" in caught.value.hint
