"""Objects in a bucket, over a real S3 API that misbehaves when told to."""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import ChangedError, StorageError
from digipath_ray.storage.files import (
    is_url,
    open_file,
    place,
    publish,
    read_bytes,
    read_text,
)
from tests.buckets import Bucket, Fault

LARGE = 2 * bucket.RANGE_BYTES + 12345
"""Bytes that are fetched in three ranges, the last of them short."""


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("s3://b/a/c", "s3://b/a/c"),
        ("s3:/b/a/c", "s3://b/a/c"),  # as Path("s3://b/a/c") has it
        ("gs://b/a/", "gs://b/a"),
        ("az://b", "az://b/"),
        ("file:///a/c", "/a/c"),
        (Path("file:///a/c"), "/a/c"),
        (Path("file"), str(Path("file").absolute())),
        ("/a/c", "/a/c"),
    ],
)
def test_a_place_is_a_path_or_a_url(text, path):
    assert str(place(text)) == path
    assert is_url(place(text)) == ("://" in path)
    assert place(place(text)) == place(text)


@pytest.mark.parametrize("text", ["https://h/a", "hdfs://h/a", "s4://b/a"])
def test_other_urls_are_refused(text):
    with pytest.raises(ValueError, match="s3://, gs://, az://, file:// or a path"):
        place(text)


def test_a_file_is_published_whole_or_not_at_all(bucket_url):
    path = place(bucket_url) / "a b" / "é.txt"
    with publish(path) as temporary:
        temporary.write_text("first", encoding="utf-8")
        assert not path.exists()
    assert read_text(path) == "first"
    with pytest.raises(FileNotFoundError), publish(path) as temporary:
        temporary.with_name("other").write_text("second", encoding="utf-8")
    assert read_text(path) == "first"
    with open_file(path) as file:
        assert file.read(3) == b"fir"
    assert [p.name for p in (path.parent).glob("*.txt")] == ["é.txt"]
    assert (path.is_file(), path.parent.is_dir(), path.is_dir()) == (True, True, False)
    path.unlink()
    path.unlink(missing_ok=True)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["slow down", "cut"])
def test_a_read_is_tried_again(bucket_server: Bucket, bucket_url, kind):
    path = place(bucket_url) / "object"
    bucket.put(path, bytes(range(256)) * 1000)
    bucket_server.faults.append(Fault(method="GET", part="object", kind=kind, times=2))
    assert read_bytes(path) == bytes(range(256)) * 1000
    assert bucket_server.asked("GET", "object") == 3


def test_a_write_is_tried_again(bucket_server: Bucket, bucket_url, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    fault = Fault(method="PUT", part="object", kind="slow down", times=2)
    bucket_server.faults.append(fault)
    bucket.upload(source, place(bucket_url) / "object")
    assert read_bytes(place(bucket_url) / "object") == b"x" * 1000
    assert bucket_server.asked("PUT", "object") == 3


def test_missing_permissions_are_told_at_once(bucket_server: Bucket, bucket_url):
    path = place(bucket_url) / "object"
    bucket.put(path, b"x")
    for method in ("GET", "HEAD", "PUT"):
        bucket_server.faults.append(
            Fault(method=method, part=bucket_url[-32:], kind="denied", times=99)
        )
    with pytest.raises(PermissionError, match="access denied") as refused:
        read_bytes(path)
    assert "credentials in the environment" in refused.value.hint
    with pytest.raises(PermissionError):
        path.exists()
    with pytest.raises(PermissionError), publish(path) as temporary:
        temporary.write_bytes(b"y")
    assert bucket_server.asked("GET", "object") == 1


def test_what_is_not_there_is_named(bucket_url):
    with pytest.raises(FileNotFoundError, match="/nothing: object not found"):
        read_bytes(place(bucket_url) / "nothing")
    with pytest.raises(StorageError, match="no bucket in the URL"):
        bucket.head("s3://")
    with pytest.raises(OSError, match="no-such-bucket") as missing:
        list(bucket.list_objects("s3://no-such-bucket/x"))
    assert "bucket's name" in missing.value.hint


def put_large(path: Path, tmp_path: Path) -> bytes:
    data = os.urandom(LARGE)
    (tmp_path / "source").write_bytes(data)
    bucket.upload(tmp_path / "source", path)
    return data


@pytest.mark.parametrize("kind", ["none", "slow down", "cut"])
def test_a_large_object_comes_in_ranges(
    bucket_server: Bucket, bucket_url, tmp_path, kind
):
    path = place(bucket_url) / "large"
    data = put_large(path, tmp_path)
    bucket_server.faults.append(Fault(method="GET", part="large", kind=kind, times=2))
    bucket_server.faults[0].times *= kind != "none"
    moved = []
    bucket.download(
        path, bucket.head(path), tmp_path / "copy", on_progress=lambda: moved.append(1)
    )
    assert (tmp_path / "copy").read_bytes() == data
    assert len(moved) == 3
    assert bucket_server.asked("GET", "large") == (3 if kind == "none" else 5)


def test_bytes_that_changed_on_their_way_are_fetched_again(
    bucket_server: Bucket, bucket_url, tmp_path
):
    path = place(bucket_url) / "object"
    bucket.put(path, b"tissue" * 100)
    fault = Fault(method="GET", part="object", kind="garbled")
    bucket_server.faults.append(fault)
    bucket.download(path, bucket.head(path), tmp_path / "copy")
    assert fault.met == 1
    assert (tmp_path / "copy").read_bytes() == b"tissue" * 100

    fault.times = 99
    with pytest.raises(StorageError, match="received damaged data 5 times"):
        bucket.download(path, bucket.head(path), tmp_path / "copy")


def test_another_version_is_refused(bucket_url, tmp_path):
    path = place(bucket_url) / "object"
    bucket.put(path, b"before")
    before = bucket.head(path)
    bucket.put(path, b"behind")
    with pytest.raises(ChangedError, match="was replaced"):
        bucket.download(path, before, tmp_path / "copy")
    bucket.download(path, bucket.head(path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"behind"


def test_an_etag_that_is_no_digest_is_believed(bucket_url, tmp_path, monkeypatch):
    # Encrypted by KMS an object's etag looks like an MD5 and is none.
    path = place(bucket_url) / "object"
    bucket.put(path, b"tissue")
    found = bucket.head(path)
    other = replace(found, etag='"' + "0" * 32 + '"')
    once = bucket._download_once
    monkeypatch.setattr(
        bucket, "_download_once", lambda u, v, t, p: once(u, found, t, p)
    )
    bucket.download(path, other, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"tissue"


def test_of_two_that_create_one_object_one_does(bucket_url):
    path = place(bucket_url) / "object"
    first = bucket.put_if(path, b"first", etag=None)
    with pytest.raises(FileExistsError):
        bucket.put_if(path, b"second", etag=None)
    second = bucket.put_if(path, b"second", etag=first)
    with pytest.raises(FileExistsError):
        bucket.put_if(path, b"third", etag=first)
    assert (read_bytes(path), bucket.head(path).etag) == (b"second", second)


@pytest.mark.slow
def test_a_listing_streams(bucket_server: Bucket, bucket_url):
    fill(bucket_url, 4000)  # four pages
    listing = bucket.list_objects(bucket_url)
    first = next(listing)
    assert (first.url, first.version.size) == (f"{bucket_url}/slide-00000.svs", 1)
    assert len(pages_asked(bucket_server)) <= 2
    assert sum(1 for _ in islice(listing, 1500)) == 1500
    assert len(pages_asked(bucket_server)) <= 3, "a page ahead, no more"
    assert sum(1 for _ in listing) == 4000 - 1501
    assert len(pages_asked(bucket_server)) == 4


def pages_asked(server: Bucket) -> set[str]:
    """The pages of a listing that were asked for; one may have been tried again."""
    return {path for _, path in server.requests if "list-type=2" in path}


def fill(url: str, count: int) -> None:
    """Objects straight in the server's memory: over HTTP it would take minutes."""
    from moto.backends import get_backend

    name, _, prefix = url.removeprefix("s3://").partition("/")
    backend = get_backend("s3")["123456789012"]["global"]
    for number in range(count):
        backend.put_object(name, f"{prefix}/slide-{number:05}.svs", b"x")
