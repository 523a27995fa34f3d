"""DICOM: what a file is, by its header; a slide per series, wherever it lies."""

import os
import struct
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage import bucket, dicom
from digipath_ray.storage.bucket import StorageError
from digipath_ray.storage.cache import local_copy
from digipath_ray.storage.dicom import WHOLE_SLIDE, DicomHeader, read_header
from digipath_ray.storage.files import place
from digipath_ray.storage.listing import step_over
from tests.dicoms import REPORT, SEGMENTATION, element, write_other, write_wsi
from tests.slides import noise

LABEL = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")


def ids(*inputs: object) -> list[str]:
    return [row.slide_id for row in read_cohort([str(i) for i in inputs])]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two slides of two levels, a label, a segmentation and a report in one folder."""
    folder = tmp_path / "case"
    for name, series, seed in (("b", "1.2.1", 1), ("a", "1.2.2", 2)):
        for level, side in ((0, 64), (1, 32)):
            pixels = noise(side, side, seed=seed)
            write_wsi(
                folder / f"{name}{level}.dcm", pixels, series=series, mpp=64 / side
            )
    write_wsi(folder / "0label.dcm", noise(16, 16), series="1.2.1", kind=LABEL)
    write_other(folder / "seg.dcm", SEGMENTATION)
    write_other(folder / "00report.dcm", REPORT)
    return folder


@pytest.mark.parametrize("implicit", [False, True])
def test_a_header_says_what_a_file_is(tmp_path: Path, implicit: bool) -> None:
    path = write_wsi(tmp_path / "a", noise(8, 8), series="1.2.3", implicit=implicit)
    header = read_header(path)
    assert header == DicomHeader(
        sop_class=WHOLE_SLIDE,
        series="1.2.3",
        image_type=("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    )
    assert header.is_level
    label = read_header(
        write_wsi(tmp_path / "b", noise(8, 8), series="1.2.3", kind=LABEL)
    )
    assert label is not None
    assert (label.is_slide, label.is_level) == (True, False)
    other = read_header(write_other(tmp_path / "c"))
    assert other is not None
    assert (other.is_slide, other.kind) == (False, "a DICOM segmentation")


def test_sequences_of_undefined_length_are_stepped_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undefined, end = 0xFFFFFFFF, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, undefined)
    item_end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    head = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, undefined)
    inner = element(8, 0x1150, b"UI", b"1.2\0") + element(8, 0x1155, b"UI", b"1.3\0")
    nested = head + item + head + item + inner + item_end + end + item_end + end
    content = (
        bytes(128)
        + b"DICM"
        + element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
        + element(8, 0x16, b"UI", WHOLE_SLIDE.encode())
        + nested
        + element(0x10, 0x10, b"PN", b"x" * 900)
        + element(0x20, 0xE, b"UI", b"1.7\0")
        + element(0x28, 2, b"US", b"\3\0")
    )
    path = tmp_path / "a"
    path.write_bytes(content)
    for size in (len(content), 200):  # in one read, and in several
        monkeypatch.setattr(dicom, "HEADER_BYTES", size)
        header = read_header(path)
        assert header is not None
        assert header.series == "1.7"
    path.write_bytes(content[:400])
    assert read_header(path) is None, "cut short"
    path.write_bytes(b"II*\0" + bytes(200))
    assert read_header(path) is None, "no DICOM"


def test_a_folder_of_two_slides_gives_two(two: Path) -> None:
    rows = read_cohort([two])
    # The label, which comes first by name, belongs to b.
    names = [(r.slide_id, Path(r.path).name) for r in rows]
    assert names == [("case_b0", "b0.dcm"), ("case_a0", "a0.dcm")]
    for row in rows:
        with open_slide(row.path) as slide:
            assert slide.info.level_dimensions == ((64, 64), (32, 32))
            seed = 1 if "_b" in row.slide_id else 2
            np.testing.assert_array_equal(
                slide.read_level(0, 0, 0, 64, 64), noise(64, 64, seed=seed)
            )


def test_files_named_by_hand_and_by_a_pattern_are_their_slides(two: Path) -> None:
    assert ids(two / "b1.dcm", two / "a0.dcm") == ["case_b0", "case_a0"]
    assert ids(two / "0label.dcm") == ["case_b0"], "the label's slide"
    assert sorted(ids(str(two / "*.dcm"))) == ["case_a0", "case_b0"]
    every = sorted(two.glob("*.dcm"))  # as a shell names them
    assert sorted(ids(*every)) == ["case_a0", "case_b0"]


def test_one_slide_beside_a_report_is_called_like_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "p1"
    write_other(folder / "a_report.dcm", REPORT)
    write_wsi(folder / "slide.dcm", noise(32, 32), series="1.2")
    assert ids(folder) == ["p1"]
    (row,) = read_cohort([folder / "slide.dcm"])
    assert (row.slide_id, Path(row.path).name) == ("p1", "slide.dcm")


def test_files_without_a_suffix_and_with_a_uid_as_name(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    write_wsi(folder / "IM0001", noise(32, 32), series="1.2")
    write_wsi(folder / "1.2.840.99.7", noise(32, 32, seed=3), series="1.3")
    write_other(folder / "DICOMDIR", "1.2.840.10008.1.3.10")
    (folder / "README").write_text("no slide")
    assert sorted(ids(folder)) == ["export_1.2.840.99.7", "export_IM0001"]


def test_what_is_no_slide_says_what_it_is(tmp_path: Path) -> None:
    path = write_other(tmp_path / "seg.dcm")
    assert ids(path) == ["seg"]
    with pytest.raises(
        SlideError, match=r"seg\.dcm: a DICOM segmentation, not a whole"
    ):
        open_slide(path)
    with pytest.raises(ValueError, match="no slide in this folder, but 1 x a DICOM"):
        read_cohort([tmp_path])
    odd = write_wsi(tmp_path / "i.dcm", noise(8, 8), series="1.2", implicit=True)
    with pytest.raises(SlideError, match="Unsupported transfer syntax") as error:
        open_slide(odd)
    assert "explicit VR" in error.value.hint


def test_further_optical_paths_are_said(tmp_path: Path) -> None:
    path = write_wsi(tmp_path / "a.dcm", noise(32, 32), series="1.2", optical_paths=2)
    with open_slide(path) as slide:
        assert [(n.flag, n.text) for n in slide.info.notes] == [
            ("several images", "2 optical paths: only the first is read")
        ]


def test_a_bucket_is_searched_by_series_too(two: Path, bucket_url: str) -> None:
    for file in two.iterdir():
        bucket.upload(file, place(f"{bucket_url}/case") / file.name)
    bucket.upload(two / "a0.dcm", place(f"{bucket_url}/bare") / "IM1")
    assert sorted(ids(bucket_url)) == ["bare", "case_a0", "case_b0"]
    assert ids(f"{bucket_url}/case/b1.dcm") == ["case_b0"]
    assert ids(f"{bucket_url}/bare/IM1") == ["bare"]
    with local_copy(f"{bucket_url}/case/b0.dcm") as copy:
        names = {p.name for p in copy.path.parent.iterdir()}
    assert names == {"b0.dcm", "b1.dcm", "0label.dcm"}, "no other slide is fetched"
    with open_slide(f"{bucket_url}/case/a0.dcm") as slide:
        assert slide.info.level_dimensions == ((64, 64), (32, 32))


@pytest.mark.parametrize("bad", ["//c.svs", "/sub//d.svs", "/./e.svs"])
def test_a_bad_key_costs_itself_alone(
    bad: str, bucket_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.svs", "0", "sub/b.svs"):
        bucket.put(f"{bucket_url}/{name}", b"x")
    put_raw(f"{bucket_url}{bad}")
    assert ids(bucket_url) == ["a", "b"]
    assert "Rename or delete the key" in caplog.text
    listed = bucket.list_objects(bucket_url)
    found = {o.url.removeprefix(f"{bucket_url}/") for o in listed}
    assert found == {"a.svs", "0", "sub/b.svs"}


def test_bad_keys_that_cannot_be_stepped_over_are_named(bucket_url: str) -> None:
    put_raw(f"{bucket_url}//c.svs")
    put_raw(f"{bucket_url}/sub//d.svs")
    with pytest.raises(StorageError, match=r"sub//d\.svs") as error:
        read_cohort([bucket_url])
    assert error.value.hint.startswith("rename or delete the keys with empty")


def test_where_a_listing_goes_on() -> None:
    assert step_over("a//b") == ("a", "a/0")
    assert step_over("a//") == ("a", "a/0")
    assert step_over("/b") == ("", "0")
    assert step_over("a/b/./c") == ("a/b", "a/b/.0")
    assert step_over("a/..") == ("a", "a/..!")


def put_raw(url: str) -> None:
    """Put an object whose key obstore refuses."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    request = urllib.request.Request(
        f"{endpoint}/{url.removeprefix('s3://')}", data=b"x", method="PUT"
    )
    urllib.request.urlopen(request).close()
