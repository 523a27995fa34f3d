"""Files that claim what they cannot hold, and files of a run that are of another form.

Found by ``python -m tests.fuzz``; each test writes its own small file.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
import tifffile
from PIL import Image

from digipath_ray.annotations import read_annotation
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.toml import from_tree, load_config
from digipath_ray.export import export_run
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.networks.card import read_card
from digipath_ray.outcome.metastasis.model import load_stage_model, save_stage_model
from digipath_ray.report.findings import read_findings
from digipath_ray.report.preview import find_window
from digipath_ray.report.render import write_report
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.patch_table import NOTE, read_prepared
from digipath_ray.run.status import read_status
from digipath_ray.schema import FAILURES, OUTCOMES, check_row, conform
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.dicom import read_frame_size
from digipath_ray.storage.files import read_json, read_rows, read_table
from digipath_ray.tissue.mask import Mask, read_mask_image, write_mask
from digipath_ray.viewer.tiles.valuetiles import open_value_tiles
from tests.dicoms import write_wsi
from tests.finished_runs import Made, draw_heatmap, write_maps, write_run
from tests.fuzz.headers import chunks, find_tags
from tests.fuzz.slide_seeds import section
from tests.fuzz.table_seeds import stage_model, write_whole_run
from tests.slides import write_jpeg, write_pyramid
from tests.viewing import client, status_of, tell, url_of


@dataclass(frozen=True)
class SlideSize64:
    """A slide of 64 x 64 px."""

    width: int = 64
    height: int = 64
    canvas: None = None


WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323
DEEP = 100_000


def set_tags(path: Path, values: dict[int, int]) -> Path:
    """Write whole numbers into tags of all directories of a TIFF."""
    data = bytearray(path.read_bytes())
    tags = find_tags(bytes(data))
    for entry in tags.entries:
        tag = struct.unpack_from(tags.order + "H", data, entry)[0]
        if tag in values:
            struct.pack_into(tags.order + "H", data, entry + 2, 4)
            struct.pack_into(tags.order + "I", data, entry + tags.value_at, values[tag])
    path.write_bytes(data)
    return path


# Sizes of slides.


def test_a_tile_of_a_smaller_level_that_goes_on_beyond_the_file(
    tmp_path: Path,
) -> None:
    path = write_jpeg(tmp_path / "a.tif", section())
    data = bytearray(path.read_bytes())
    tags = find_tags(bytes(data))
    counts = [e for e in tags.entries if struct.unpack_from("<H", data, e)[0] == 325]
    at = struct.unpack_from("<I", data, counts[-1] + 8)[0]
    kind = struct.unpack_from("<H", data, counts[-1] + 2)[0]
    struct.pack_into("<H" if kind == 3 else "<I", data, at, 65_535)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="cut short"):
        open_slide(path)


def test_a_scanners_header_that_cannot_be_read_is_not_left_to_openslide(
    tmp_path: Path,
) -> None:
    text = "Aperio Image Library v12\n256x192|AppMag = 20|MPP = 0.5"
    path = write_jpeg(tmp_path / "a.svs", section(), description=text)
    set_tags(path, {TILE_WIDTH: 2**31 - 1})
    data = bytearray(path.read_bytes())
    for entry in find_tags(bytes(data)).entries:
        if struct.unpack_from("<H", data, entry)[0] == LENGTH:
            struct.pack_into("<H", data, entry + 2, 2)  # a text
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"a\.svs"):
        open_slide(path)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({WIDTH: 0}, "no size of a slide"),
        ({WIDTH: 2**31 - 1}, "no size of a slide"),
        ({LENGTH: 2**32 - 1}, "no size of a slide"),
        ({324: 2**32 - 1}, "cut short|headers cannot be read|of which the file lists"),
        ({WIDTH: 1 << 20}, "tiles or strips, of which the file lists 12"),
        ({TILE_WIDTH: 0}, "tiles of 0 x 64 px"),
        ({TILE_WIDTH: 1 << 15, TILE_LENGTH: 1 << 16}, "tiles of 32768 x 65536 px"),
        ({TILE_WIDTH: 2, TILE_LENGTH: 1}, "of which the file lists 12"),
    ],
)
@pytest.mark.parametrize("name", ["a.tif", "a.svs"])
def test_absurd_sizes_are_refused_by_arithmetic(
    tmp_path: Path, values: dict[int, int], said: str, name: str, bigtiff: bool
) -> None:
    text = "Aperio Image Library v12\n256x192|AppMag = 20|MPP = 0.5"
    path = tmp_path / name
    write_jpeg(
        path,
        section(),
        bigtiff=bigtiff,
        description=text if name == "a.svs" else None,
        downsamples=(1,),
    )
    with pytest.raises(SlideError, match=said):
        open_slide(set_tags(path, values))


def test_a_file_whose_tiles_are_all_there_is_read(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", section(), mpp=0.5)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 256, 192), section())


@pytest.mark.parametrize("level", [0, 1])
def test_pixels_that_the_checksum_of_a_tile_contradicts(
    tmp_path: Path, level: int
) -> None:
    path = write_pyramid(tmp_path / "a.tif", section(), mpp=0.5)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        end = page.dataoffsets[0] + page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 1  # of the Adler-32 itself: what is decoded is as before
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.read_level(level, 64, 0, 32, 32).shape == (32, 32, 3)
        with pytest.raises(SlideError, match=r"a\.tif: .*incorrect data check"):
            slide.read_level(level, 0, 0, 96, 32)


def test_the_same_of_strips(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(section()).save(path, compression="tiff_deflate")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        end = page.dataoffsets[0] + page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 1
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(SlideError, match="data check"):
        slide.read_level(0, 0, 0, 9, 9)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_a_frame_of_gigabytes_in_dicom(
    tmp_path: Path, implicit: bool, beside: bool
) -> None:
    """Also in another file of the series, which OpenSlide reads with the first."""
    pixels = np.ascontiguousarray(section()[:64, :64])
    path = write_wsi(tmp_path / "a.dcm", pixels, series="1.2", mpp=0.5)
    assert read_frame_size(path) == (64, 64)
    open_slide(path).close()
    huge = tmp_path / ("b.dcm" if beside else "a.dcm")
    write_wsi(huge, pixels, series="1.2", mpp=1.0, implicit=implicit)
    made = pydicom.dcmread(huge)
    made.Rows = made.Columns = 65_535
    made.save_as(huge)
    assert read_frame_size(huge) == (65_535, 65_535)
    if not implicit:  # which OpenSlide does not know at all
        with pytest.raises(SlideError, match="frames of 65535 x 65535 px"):
            open_slide(path)


# Images.


def write_png(path: Path, *, width: int | None = None) -> Path:
    """An image whose header may name another width, under a right checksum."""
    Image.fromarray(section()).save(path)
    data = bytearray(path.read_bytes())
    _, at, length = next(chunks(bytes(data)))
    if width is not None:
        struct.pack_into(">I", data, at, width)
        crc = zlib.crc32(data[at - 4 : at + length])
        struct.pack_into(">I", data, at + length, crc)
    path.write_bytes(data)
    return path


READERS: list[Callable[[Path], object]] = [
    lambda path: open_slide(path).read_level(0, 0, 0, 9, 9),
    read_mask_image,
    lambda path: read_annotation(path, slide=open_slide(path).info),
]


@pytest.mark.parametrize("read", READERS)
def test_pixels_that_a_png_has_no_checksum_for_are_refused(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = write_png(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    at = next(at for name, at, _ in chunks(bytes(data)) if name == b"IDAT")
    data[at + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png.*damaged"):
        read(path)


@pytest.mark.parametrize("cut", [20, 60, 12_000])
def test_a_png_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = write_png(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(SlideError, match=r"a\.png"):
        open_slide(path).read_level(0, 0, 0, 9, 9)


def test_more_pixels_than_a_file_can_hold_are_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", width=5_000_000)
    with pytest.raises(SlideError, match="cannot hold"):
        open_slide(path)
    with pytest.raises(ValueError, match="cannot hold"):
        read_mask_image(path)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg"])
def test_the_same_of_a_tiff_in_strips(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(section()).save(path, compression=compression)
    open_slide(path).close()
    set_tags(path, {WIDTH: 1 << 19, LENGTH: 1 << 11})
    with pytest.raises(SlideError, match="cannot hold"):
        open_slide(path)


def test_blank_images_are_as_small_as_compression_makes_them(tmp_path: Path) -> None:
    blank = Image.new("RGB", (4096, 4096), "white")
    for name, options in (
        ("a.png", {}),
        ("a.jpg", {"quality": 5, "progressive": True}),
        ("a.bmp", {}),
        ("lzw.tif", {"compression": "tiff_lzw"}),
        ("deflate.tif", {"compression": "tiff_deflate"}),
        ("packbits.tif", {"compression": "packbits"}),
    ):
        blank.save(tmp_path / name, **options)
        with open_slide(tmp_path / name) as slide:
            assert slide.read_level(0, 4000, 4000, 9, 9).min() > 240


def test_a_mask_of_samples_of_gigabits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("L", (64, 64)).save(path)
    set_tags(path, {258: 2**31 - 1})
    with pytest.raises(SlideError, match=r"a\.tif"):
        read_annotation(path, slide=SlideSize64())


def test_a_mask_of_transparency_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), extrasamples=())
    data = bytearray(path.read_bytes())
    tags = find_tags(bytes(data))
    # The tag of the software becomes that of an extra sample.
    for entry in tags.entries:
        if struct.unpack_from("<H", data, entry)[0] == 305:  # software
            struct.pack_into("<HHII", data, entry, 338, 3, 1, 2)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="no channel beside transparency"):
        read_annotation(path, slide=SlideSize64())


# Text.


def test_what_is_nested_beyond_reason_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * DEEP)
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"model card .*a\.json: not valid JSON"):
        read_card(tmp_path / "a.safetensors")
    (tmp_path / "a.toml").write_text(f"[grid]\nmpp = {'[' * DEEP}")
    with pytest.raises(ValueError, match=r"a\.toml: not valid TOML"):
        load_config(path=tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid = 1", r"write a table \[grid\]"),
        ("members = 1", r"write \[\[members\]\] tables"),
        ("members = [1]", r"write \[\[members\]\] tables"),
        ("outcome = 1\n[ensemble]\nthreshold = 0.5", r"write a table \[outcome\]"),
        ("[grid]\npatch_px = 99999999999", "32 to 16384"),
        (
            "[[members]]\nname = 'a'\narchitecture = 'A'\nseed = 9999999999999999999",
            "members.seed",
        ),
    ],
)
def test_settings_of_another_form_are_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        from_tree(load_config(path=tmp_path / "a.toml"))


def test_a_manifest_with_a_nul_is_refused_by_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path,node\nx.svs,1\ny\0.svs,2\n")
    with pytest.raises(ValueError, match="line 3, column path: holds a NUL"):
        read_cohort([tmp_path / "a.csv"])


# Tables.

FAILURE: dict[str, Any] = {
    "slide_id": "s",
    "path": "/s.tif",
    "patient_id": None,
    "step": "read",
    "attempt": 1,
    "error": "e",
    "hint": "h",
}


def test_a_table_of_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**FAILURE, "added": 1}])
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet", FAILURES) == [{**FAILURE, "cause": None}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hint": None}, "column hint has gaps"),
        ({"attempt": "x"}, "column attempt is string, not int32"),
        ({"attempt": 2**40}, "not in range"),
        ({"attempt": True}, "column attempt is bool"),
        ({"hint": 1}, "column hint is int64, not string"),
        ({"error": ["x"]}, "column error is list"),
        ({"error": {"a": 1}}, "column error is struct"),
    ],
)
def test_a_table_of_other_values_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{**FAILURE, **change}]), path)
    with pytest.raises(ValueError, match=rf"a\.parquet: .*{said}"):
        read_rows(path, FAILURES)


def test_a_column_that_is_missing_or_there_twice_is_named() -> None:
    table = pa.Table.from_pylist([FAILURE])
    with pytest.raises(ValueError, match="column step is missing"):
        conform(table.drop_columns(["step"]), FAILURES)
    with pytest.raises(ValueError, match="column step is there twice"):
        conform(table.append_column("step", table["step"]), FAILURES)


def test_a_type_of_metastasis_is_one_of_four() -> None:
    check_row({"metastasis": "macro", "votes": ["itc", "macro"]}, OUTCOMES)
    check_row({"metastasis": None, "votes": None, "tumor_mm2": 1, "qc": []}, OUTCOMES)
    for row in (
        {"metastasis": "huge"},
        {"votes": ["itc", "huge"]},
        {"tumor_mm2": None},
        {"tumor_mm2": "1"},
        {"lesions": 1.5},
        {"lesions": 2**80},
        {"qc": [1]},
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(row))} = "):
            check_row(row, OUTCOMES)


@pytest.mark.parametrize("length", [0, 1, 2**31 - 1, 2**32 - 1])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([FAILURE]), path)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-8] + struct.pack("<I", length) + data[-4:])
    with pytest.raises(ValueError, match=r"a\.parquet: not a Parquet file"):
        read_table(path)


def test_bytes_that_arrow_calls_an_error_of_the_disk_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([FAILURE]), path)
    data = bytearray(path.read_bytes())
    footer = struct.unpack_from("<I", data, len(data) - 8)[0]
    data[-8 - footer : -8] = b"\xff" * footer
    path.write_bytes(data)
    with pytest.raises(pa.ArrowInvalid, match=r"a\.parquet: not a Parquet file"):
        read_table(path)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "absent.parquet")


# The files of a run.


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = [Made(slide_id="a", lesions=((1500.0, 1500.0, 700.0, 0.9),))]
    return write_run(tmp_path / "run", [*made, Made(slide_id="b")])


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["slide"].update(slide_id="../../outside"),
        lambda record: record["slide"].update(slide_id="b"),
        lambda record: record["slide"].update(width="wide"),
        lambda record: record["slide"].update(mpp_x=None),
        lambda record: record["outcome"].update(tumor_mm2=[1]),
        lambda record: record["outcome"].update(metastasis="huge"),
        lambda record: record.update(outcome=3),
        lambda record: record.update(slide=[]),
        lambda record: record["slide"].update(mpp_y=-1.0),
        lambda record: record["slide"].update(level_downsamples=[1.0, float("nan")]),
        lambda record: record["lesions"][0].pop("max_p"),
        lambda record: record["lesions"][0].update(area_mm2="large"),
        lambda record: record.update(measured=[]),
        lambda record: record.update(members={"a": 1}),
    ],
)
def test_a_record_of_another_form_is_left_out(
    run: RunDirectory, change: Callable[[Any], None]
) -> None:
    record = json.loads(run.done("a").read_text())
    change(record)
    run.write_json(run.done("a"), record)
    assert [*run.read_done()] == ["b"]
    with pytest.raises(ValueError, match="record"):
        run.read_record("a")
    write_report(run)
    assert client(run).get(url_of("a")).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {"eta_s": float("nan")},
        {"patches_per_s": float("inf")},
        {"progress": {"a": float("nan")}},
        {"updated": "yesterday"},
        {"updated": "2026-11-29T03:00:00"},
        {"started": 3},
        {"slides": "3"},
        {"failures": [{"slide_id": "a"}]},
        {"failures": [{"slide_id": 1, "step": "", "error": "", "hint": ""}]},
        {"progress": None},
    ],
)
def test_a_status_of_another_form_is_refused(
    run: RunDirectory, said: dict[str, Any]
) -> None:
    run.write_json(run.status, {**asdict(status_of()), **said})
    with pytest.raises(ValueError, match=r"status\.json: no status of a run"):
        read_status(run)


def test_a_status_of_a_newer_version_is_read(run: RunDirectory) -> None:
    tell(run, eta_s=3)
    told = json.loads(run.status.read_text())
    run.write_json(run.status, {**told, "added": [1]})
    assert read_status(run) == status_of(**{**told, "eta_s": 3})


@pytest.mark.parametrize(
    "metrics",
    [
        {"patches": "many"},
        {"read": {"workers": 1}},
        {"predict": {"workers": 1, "busy": 0.5}},
        {"machine": "fast"},
        {"prepare_s": [1]},
        [1, 2],
    ],
)
def test_metrics_of_another_form_are_refused(run: RunDirectory, metrics: Any) -> None:
    run.write_json(run.metrics, metrics)
    with pytest.raises(ValueError, match=r"metrics\.json: no metrics of a run"):
        read_findings(run)


def test_a_thumbnail_that_claims_gigapixels_is_no_picture(run: RunDirectory) -> None:
    path = run.thumbnail("a")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, 65_500, 65_500)
    path.write_bytes(data)
    write_report(run)  # without its preview
    answer = client(run).get(url_of("a", "/thumbnail.jpg"))
    assert answer.status_code == 500
    assert "a.jpg: cannot read the picture" in answer.json()["error"]


@pytest.mark.parametrize(
    "values",
    [
        {WIDTH: 1 << 20},
        {LENGTH: 2**32 - 1},
        {WIDTH: 0},
        {WIDTH: 32_768, LENGTH: 3},
    ],
)
def test_a_heatmap_of_absurd_size_is_refused(
    run: RunDirectory, values: dict[int, int]
) -> None:
    path = set_tags(run.heatmap("a"), values)
    with pytest.raises(ValueError, match=r"a\.ome\.tiff"):
        read_heatmap(path)
    with pytest.raises(ValueError, match=r"a\.ome\.tiff"):
        open_value_tiles(path).read("probability", 0, 0, 0)
    write_report(run)


def test_a_whole_heatmap_is_read(run: RunDirectory) -> None:
    drawn = draw_heatmap(Made(slide_id="b"))
    write_maps(run, "b", drawn)
    np.testing.assert_array_equal(read_heatmap(run.heatmap("b")).data, drawn.data)
    with tifffile.TiffFile(run.heatmap("b")) as tiff:
        assert tiff.pages.first.is_tiled


def test_a_patch_table_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run")
    row = run.read_record("with").slide
    row = type(row)(**{**vars(row), "path": str(run.root / "s.tif")})
    config = read_findings(run).config
    assert read_prepared(run, row, config) is not None
    path = run.patches("with")
    whole = path.read_bytes()
    table = pq.read_table(path)
    note = json.loads(table.schema.metadata[NOTE])
    for changed in (
        None,
        [],
        {**note, "row": {**note["row"], "width": "x"}},
        {k: v for k, v in note.items() if k != "mask_digest"},
    ):
        metadata = {} if changed is None else {NOTE: json.dumps(changed)}
        pq.write_table(table.replace_schema_metadata(metadata), path)
        assert read_prepared(run, row, config) is None
    path.write_bytes(whole[:-9])
    assert read_prepared(run, row, config) is None


@pytest.mark.parametrize("text", ["[[[", "grid = 1", "[grid]\nmpp = '\xff'"])
def test_damaged_settings_of_a_run_say_which_file(run: RunDirectory, text: str) -> None:
    run.settings.write_text(text, "latin-1")
    with pytest.raises(RunError, match=r"run\.toml: damaged"):
        run.agree({}, [], overwrite=False)


def test_outcomes_that_a_report_cannot_use_are_named(run: RunDirectory) -> None:
    table = pq.read_table(run.outcomes)
    pq.write_table(table.drop_columns(["lesions"]), run.outcomes)
    with pytest.raises(ValueError, match=r"a: its row of outcomes\.parquet"):
        write_report(run)


def test_a_table_of_texts_that_are_no_utf8_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([b"\xff\xfe"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"slide_id": texts}), path)
    with pytest.raises(pa.ArrowInvalid, match=r"a\.parquet: not a Parquet file"):
        read_table(path)


@pytest.mark.parametrize("value", ["nan", "0", "-8", "1e300"])
def test_a_heatmap_of_another_scale_is_refused(run: RunDirectory, value: str) -> None:
    path = run.heatmap("a")
    text = tifffile.tiffcomment(path)
    scaled = text.replace('PhysicalSizeY="16.0"', f'PhysicalSizeY="{value}"')
    assert scaled != text
    tifffile.tiffcomment(path, scaled.encode())
    with pytest.raises(ValueError, match=r"a\.ome\.tiff: damaged: sides of"):
        read_heatmap(path)


def test_tissue_beyond_the_slide_makes_no_preview(run: RunDirectory) -> None:
    mask = np.zeros((4, 16_384), np.bool_)
    mask[:, -9:] = True
    write_mask(run.mask("a"), Mask(array=mask, mpp_x=8.0, mpp_y=8.0))
    with pytest.raises(ValueError, match=r"a\.png: its tissue lies beyond"):
        find_window(run.mask("a"), (4000.0, 3000.0))
    write_report(run)


def test_what_a_column_means_is_shown_whatever_it_holds(
    run: RunDirectory, tmp_path: Path
) -> None:
    table = pq.read_table(run.failures)
    field = table.schema.field("hint").with_metadata({b"doc": b"\xef"})
    at = table.schema.get_field_index("hint")
    pq.write_table(table.cast(table.schema.set(at, field)), run.failures)
    export_run(run, tmp_path / "out", format="csv")
    meanings = (tmp_path / "out" / "columns.csv").read_text("utf-8")
    assert "failures,hint,string,\ufffd" in meanings


# Stage models.


@pytest.mark.parametrize("fault", ["header of an array", "said to be encrypted"])
def test_a_damaged_stage_model_is_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "m.skops"
    save_stage_model(path, stage_model())
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith(".npy"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each, data in files.items():
            cut = each == name and fault == "header of an array"
            archive.writestr(each, data.replace(b"}", b"(") if cut else data)
    data = bytearray(out.getvalue())
    if fault == "said to be encrypted":
        at = data.rindex(b"PK\x01\x02")
        while at >= 0:  # every entry of the directory, and its own header
            data[at + 8] |= 1
            at = data.rfind(b"PK\x01\x02", 0, at)
        at = data.rfind(b"PK\x03\x04")
        while at >= 0:
            data[at + 6] |= 1
            at = data.rfind(b"PK\x03\x04", 0, at)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.skops: not a readable stage model"):
        load_stage_model(path)
