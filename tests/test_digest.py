"""What identifies a file: its bytes, wherever it lies and whatever it is called."""

import os
import time
from pathlib import Path

import pytest

from digipath_ray.storage import bucket, digest
from digipath_ray.storage.digest import (
    BLOCK_BYTES,
    WHOLE_BYTES,
    bytes_of,
    content_digest,
    describe_change,
    slide_digest,
)
from digipath_ray.storage.files import file_digest, place
from tests.buckets import Bucket
from tests.dicoms import write_other, write_wsi
from tests.slides import noise


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files above 4,096 bytes are sampled: 32 blocks of 64 bytes."""
    monkeypatch.setattr(digest, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(digest, "BLOCK_BYTES", 64)


def test_the_path_does_not_count_and_every_byte_of_a_small_file_does(
    tmp_path: Path,
) -> None:
    data = os.urandom(5000)
    one = slide_digest(written(tmp_path / "a" / "x.svs", data))
    assert one == slide_digest(written(tmp_path / "b" / "y.svs", data))
    assert bytes_of(one) == 5000
    for i in (0, 2500, 4999):
        other = bytearray(data)
        other[i] ^= 1
        changed = slide_digest(written(tmp_path / "c.svs", bytes(other)))
        assert changed != one
        assert "same 5,000 bytes" in describe_change(one, changed)
    longer = slide_digest(written(tmp_path / "d.svs", data + b"x"))
    assert describe_change(one, longer) == "5,001 bytes, 5,000 before"
    assert bytes_of(slide_digest(written(tmp_path / "e.svs", b""))) == 0


def test_of_a_large_file_head_middle_and_tail_are_read(
    tmp_path: Path, small_blocks: None
) -> None:
    data = os.urandom(100_000)
    path = written(tmp_path / "a.svs", data)
    before = slide_digest(path)
    middle = (100_000 - 64) * 16 // 31
    for i in (0, middle, 99_999):
        other = bytearray(data)
        other[i] ^= 1
        assert slide_digest(written(tmp_path / "b.svs", bytes(other))) != before
    assert slide_digest(written(tmp_path / "b.svs", data[:-1])) != before


def test_a_gigapixel_file_takes_milliseconds_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.svs"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    assert bytes_of(slide_digest(path)) == 20 << 30  # a hash of it all takes a minute
    assert digest.BLOCKS * BLOCK_BYTES <= WHOLE_BYTES // 8


def test_a_file_that_was_written_again_is_looked_at_again(tmp_path: Path) -> None:
    path = written(tmp_path / "a.svs", b"before")
    before = slide_digest(path)
    for i in range(10, 30):  # within a tick of the clock, of the same size
        path.write_bytes(b"take%d" % i)
        now = slide_digest(path)
        assert now != before
        before = now


def test_a_digest_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.svs", b"before")
    monkeypatch.setattr(digest, "FRESH_NS", 0)
    before, stamp = slide_digest(path), path.stat()
    read = digest._digest_of_file.cache_info().misses
    assert slide_digest(path) == before
    assert digest._digest_of_file.cache_info().misses == read
    time.sleep(0.05)
    path.write_bytes(b"after!")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert slide_digest(path) != before, "as a copy that keeps times does"


@pytest.mark.parametrize(
    ("name", "part"),
    [("a.mrxs", "a/Data0001.dat"), ("a.vms", "a_1(0,1).jpg"), ("[a].vms", "[a].opt")],
)
def test_files_that_belong_to_a_slide_count(
    tmp_path: Path, name: str, part: str
) -> None:
    slide = written(tmp_path / name, b"index")
    alone = slide_digest(slide)
    written(tmp_path / part, b"pixels")
    both = slide_digest(slide)
    assert both != alone
    written(tmp_path / "b.txt", b"no part of it")
    assert slide_digest(slide) == both
    written(tmp_path / part, b"others")
    assert slide_digest(slide) != both


def test_all_files_of_a_dicom_series_count_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    one = write_wsi(folder / "1.dcm", noise(64, 64), series="1.2.1", mpp=1.0)
    write_wsi(folder / "2.dcm", noise(32, 32), series="1.2.1", mpp=2.0)
    before = slide_digest(one)
    assert bytes_of(before) == sum(p.stat().st_size for p in folder.iterdir())
    assert slide_digest(folder / "2.dcm") == before, "any of its files names a slide"
    write_wsi(folder / "3.dcm", noise(64, 64), series="1.2.9", mpp=1.0)
    write_other(folder / "report.dcm")
    assert slide_digest(one) == before
    write_wsi(folder / "2.dcm", noise(32, 32, seed=5), series="1.2.1", mpp=2.0)
    assert slide_digest(one) != before


def test_a_slide_has_the_same_digest_in_a_bucket(
    bucket_server: Bucket, bucket_url: str, tmp_path: Path, small_blocks: None
) -> None:
    folder = tmp_path / "case"
    write_wsi(folder / "1.dcm", noise(64, 64), series="1.2.1", mpp=1.0)
    write_wsi(folder / "2.dcm", noise(32, 32), series="1.2.1", mpp=2.0)
    large = written(tmp_path / "a.svs", os.urandom(100_000))
    written(tmp_path / "m.mrxs", b"index")
    written(tmp_path / "m" / "Data0001.dat", b"pixels")
    written(tmp_path / "empty.svs", b"")
    names = ("case/1.dcm", "case/2.dcm", "a.svs", "m.mrxs", "m/Data0001.dat")
    for name in (*names, "empty.svs"):
        bucket.upload(tmp_path / name, place(bucket_url) / "other" / name)
    for name in ("case/1.dcm", "a.svs", "m.mrxs", "empty.svs"):
        assert slide_digest(f"{bucket_url}/other/{name}") == slide_digest(
            tmp_path / name
        ), name
    read = bucket_server.asked("GET", "/other/a.svs")
    assert read == digest.BLOCKS, "ranges of it, not all of it"
    assert slide_digest(f"{bucket_url}/other/a.svs") == slide_digest(large)
    assert bucket_server.asked("GET", "/other/a.svs") == read, "it is the same version"
    with pytest.raises(FileNotFoundError):
        slide_digest(f"{bucket_url}/none.svs")
    with pytest.raises(FileNotFoundError):
        slide_digest(tmp_path / "none.svs")


def test_annotations_count_by_all_their_bytes(
    bucket_server: Bucket,
    bucket_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path / "a.geojson", b"{}")
    assert content_digest(path) == file_digest(path)
    assert content_digest(tmp_path / "none") is None
    bucket.upload(path, place(bucket_url) / "a.geojson")
    url = f"{bucket_url}/a.geojson"
    assert content_digest(url) == file_digest(path)
    assert content_digest(f"{bucket_url}/none") is None
    monkeypatch.setattr(digest, "WHOLE_BYTES", 1)
    bucket_server.requests.clear()
    large = content_digest(url)
    assert large is not None
    assert bucket_server.asked("GET", "a.geojson") == 0, "the etag serves"
    bucket.upload(path, place(bucket_url) / "elsewhere.geojson")
    assert content_digest(f"{bucket_url}/elsewhere.geojson") == large
    path.write_bytes(b"[]")
    bucket.upload(path, place(url))
    assert content_digest(url) != large
