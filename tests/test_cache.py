"""Copies of objects on a node's disk."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from digipath_ray.cli.doctor import check_bucket, check_cache
from digipath_ray.storage import bucket, cache
from digipath_ray.storage.bucket import ChangedError, StorageError
from digipath_ray.storage.cache import Cache, local_copy, object_version
from digipath_ray.storage.files import place
from tests.buckets import Bucket, Fault


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the processes of a test: 1000 bytes."""
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIGIPATH_CACHE_GB", "0.000001")
    return tmp_path / "cache"


def put(url: str, name: str, size: int, fill: bytes = b"x") -> str:
    bucket.put(place(url) / name, fill * size)
    return f"{url}/{name}"


def hold(url: str) -> None:
    with local_copy(url):
        pass


def kept(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*.svs")}


def test_a_file_of_this_node_is_its_own_copy(tmp_path, folder):
    with local_copy(tmp_path / "a.svs") as copy:
        assert (copy.path, copy.version) == (tmp_path / "a.svs", None)
    assert not folder.exists()


def test_an_object_is_fetched_once(bucket_server: Bucket, bucket_url, folder):
    url = put(bucket_url, "a.svs", 300)
    with local_copy(url) as copy, local_copy(url) as again:
        assert copy.path == again.path
        assert copy.path.name == "a.svs"
        assert copy.path.read_bytes() == b"x" * 300
        assert (copy.fetched_bytes, again.fetched_bytes) == (300, 0)
        assert copy.version == object_version(url)
    hold(url)
    assert bucket_server.asked("GET", "a.svs") == 1


def test_the_least_used_leaves_first(bucket_server: Bucket, bucket_url, folder):
    a, b, c = (put(bucket_url, f"{n}.svs", 400) for n in "abc")
    for url in (a, b, a):
        with local_copy(url):
            time.sleep(0.02)  # the times of their uses differ
    with local_copy(c):
        assert set(kept(folder)) == {"a.svs", "c.svs"}


def test_what_is_in_use_stays(bucket_url, folder, monkeypatch):
    monkeypatch.setattr(cache, "ROOM_WAIT_S", 0.5)
    a, b, c = (put(bucket_url, f"{n}.svs", 400) for n in "abc")
    with local_copy(a) as used, local_copy(b):
        with pytest.raises(StorageError, match="every copy is in use") as full:
            hold(c)
        assert "DIGIPATH_CACHE_GB" in full.value.hint
        assert used.path.read_bytes() == b"x" * 400
    with local_copy(c):
        assert len(kept(folder)) == 2


def test_what_is_larger_than_the_cache_is_refused(
    bucket_server: Bucket, bucket_url, folder
):
    url = put(bucket_url, "a.svs", 1001)
    with pytest.raises(StorageError, match="more than the") as refused:
        hold(url)
    assert "DIGIPATH_CACHE" in refused.value.hint
    assert bucket_server.asked("GET", "a.svs") == 0


def test_a_replaced_object_is_fetched_anew(bucket_url, folder):
    url = put(bucket_url, "a.svs", 300)
    with local_copy(url) as copy:
        first = copy.version
    put(bucket_url, "a.svs", 200, b"y")
    with (
        pytest.raises(ChangedError, match="was replaced"),
        local_copy(url, version=first),
    ):
        pass
    with local_copy(url) as copy:
        assert copy.path.read_bytes() == b"y" * 200


def test_a_copy_half_made_is_made_anew(bucket_url, folder, monkeypatch):
    url = put(bucket_url, "a.svs", 300)

    def break_off(source, version, target: Path, **_: object) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(bucket, "download", break_off)
        with pytest.raises(KeyboardInterrupt), local_copy(url):
            pass
    with local_copy(url) as copy:
        assert copy.path.read_bytes() == b"x" * 300


def test_leftovers_make_room(bucket_url, folder):
    store = Cache(folder, 1000)
    folder.mkdir()
    store._write("dead", "s3://b/dead.svs", 900, version=None)
    (folder / "dead").mkdir()
    (folder / "dead" / "dead.svs").write_bytes(b"half")
    with local_copy(put(bucket_url, "a.svs", 300)):
        assert set(kept(folder)) == {"a.svs"}


def test_the_files_of_a_slide_come_together(bucket_url, folder):
    put(bucket_url, "a.mrxs", 10)
    put(bucket_url, "a/Slidedat.ini", 20, b"i")
    put(bucket_url, "a/Data0000.dat", 30, b"d")
    put(bucket_url, "b.mrxs", 10)
    with local_copy(f"{bucket_url}/a.mrxs") as copy:
        beside = copy.path.parent
        found = {str(p.relative_to(beside)) for p in beside.rglob("*.*")}
        assert found == {"a.mrxs", "a/Slidedat.ini", "a/Data0000.dat"}
        version = copy.version
    put(bucket_url, "a/Data0000.dat", 30, b"e")
    assert object_version(f"{bucket_url}/a.mrxs") != version

    for name in ("1.dcm", "2.dcm", "other.txt", "below/3.dcm"):
        put(bucket_url, f"series/{name}", 10)
    with local_copy(f"{bucket_url}/series/1.dcm") as copy:
        assert {p.name for p in copy.path.parent.iterdir()} == {"1.dcm", "2.dcm"}


def read_often(url: str, times: int) -> bool:
    for _ in range(times):
        with local_copy(url) as copy:
            if len(set(copy.path.read_bytes())) != 1:
                return False
    return True


@pytest.mark.slow
def test_many_processes_share_a_cache_that_is_too_small(
    bucket_server: Bucket, bucket_url, folder
):
    urls = [put(bucket_url, f"{n}.svs", 400, n.encode()) for n in "abcd"]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert all(pool.starmap(read_often, [(url, 10) for url in urls * 2]))
        same = put(bucket_url, "same.svs", 500)
        assert all(pool.starmap(read_often, [(same, 3)] * 8))
    assert bucket_server.asked("GET", "same.svs") == 1
    assert sum(len(data) for data in kept(folder).values()) <= 1000


def test_a_wrong_limit_is_named(monkeypatch, bucket_url):
    monkeypatch.setenv("DIGIPATH_CACHE_GB", "much")
    with pytest.raises(ValueError, match="DIGIPATH_CACHE_GB=much"):
        hold(f"{bucket_url}/a.svs")


def test_nobody_else_may_read_the_copies(bucket_url, folder):
    with local_copy(put(bucket_url, "a.svs", 10)):
        assert os.stat(folder).st_mode & 0o077 == 0


def test_the_doctor_looks_at_the_bucket(bucket_server: Bucket, bucket_url, folder):
    verdict, what, text = check_bucket(place(bucket_url))
    assert (verdict, what) == ("ok", "run directory")
    assert "two runs are kept apart" in text
    assert not list(bucket.list_objects(bucket_url)), "it leaves nothing behind"
    fault = Fault(method="PUT", part="doctor", kind="denied", times=99)
    bucket_server.faults.append(fault)
    verdict, _, text = check_bucket(place(bucket_url))
    assert verdict == "fail"
    assert "credentials" in text
    assert check_cache()[:2] == ("warn", "slide cache")
