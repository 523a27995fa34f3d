"""Preparing a slide: what is written, and when an earlier result is good enough."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree
from digipath_ray.networks.notes import overlay_notes
from digipath_ray.patches import cut_chunks, keep_cells
from digipath_ray.pipeline.prepare import prepare_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.patch_table import read_chunks, read_prepared
from digipath_ray.run.record import SlideRecord
from digipath_ray.schema import PATCHES, SLIDES
from digipath_ray.slide.open import SlideError
from digipath_ray.tissue.mask import read_mask, read_mask_image
from tests.slides import paint, write_jpeg, write_pyramid

TREE = {
    "grid": {"mpp": 1.0, "patch_px": 128, "stride_px": 64, "downsample": 4},
    "tissue": {"close_um": 16.0, "margin_um": 30.0, "min_tissue_mm2": 0.01},
    "compute": {"chunk_cells": 16},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create()
    return run


@pytest.fixture
def row(tmp_path: Path) -> SlideRow:
    pixels = np.full((1000, 1600, 3), 245, np.uint8)
    pixels[200:600, 400:1000] = paint(np.full((400, 600), 0.5))
    path = write_pyramid(tmp_path / "s.tif", pixels, mpp=1.0)
    return SlideRow(slide_id="s", path=str(path), patient_id="p")


def config_of(**sections: dict[str, object]) -> RunConfig:
    return from_tree(
        {k: {**TREE.get(k, {}), **sections.get(k, {})} for k in {*TREE, *sections}}
    )


def test_the_table_says_what_read_each_slide(run: RunDirectory, row: SlideRow) -> None:
    config = config_of()
    image = Path(row.path).with_name("s.png")
    Image.fromarray(tifffile.imread(row.path, key=0)).save(image)
    jpeg = Path(row.path).with_name("j.tif")
    write_jpeg(jpeg, tifffile.imread(row.path, key=0), photometric="rgb")
    rows = [row, replace(row, slide_id="i", path=str(image), mpp=1.0)]
    rows.append(replace(row, slide_id="j", path=str(jpeg), mpp=1.0))
    records = [prepare_slide(r, config, run) for r in rows]
    run.write_table(run.slides, [record.to_row() for record in records], SLIDES)
    readers = pq.read_table(run.slides)["reader"].to_pylist()
    assert readers == ["OpenSlide", "Pillow", "JPEG tiles"]
    assert read_prepared(run, rows[2], config) == records[2]


def test_a_person_can_check_what_was_found(run: RunDirectory, row: SlideRow) -> None:
    config = config_of()
    prepared = prepare_slide(row, config, run)
    mask = read_mask(run.mask("s"))
    # Colors are averaged over 24 um, so the mask reaches a little beyond the edge.
    assert mask.area_mm2 == pytest.approx(0.25, rel=0.05)
    assert prepared.tissue_mm2 == pytest.approx(mask.area_mm2)
    assert prepared.qc == ()
    table = pq.read_table(run.patches("s"))
    assert table.schema.names == PATCHES.names
    assert set(prepared.to_row()) == set(SLIDES.names)
    cells = keep_cells(prepared.grid(config.grid), mask.dilated(30.0))
    chunks = cut_chunks(cells, chunk_cells=16)
    for ours, written in zip(chunks, read_chunks(run, "s", config), strict=True):
        np.testing.assert_array_equal(ours, written)
    with Image.open(run.thumbnail("s")) as thumbnail:
        assert thumbnail.size == (1400, 875)
    with Image.open(run.mask_overlay("s")) as overlay:
        assert max(overlay.size) >= 600


def test_no_tissue_is_said_and_the_mask_is_there_to_look_at(
    run: RunDirectory, tmp_path: Path
) -> None:
    path = write_pyramid(
        tmp_path / "b.tif", np.full((600, 600, 3), 245, np.uint8), mpp=1.0
    )
    with pytest.raises(SlideError, match=r"no tissue of at least 0\.01 mm2") as caught:
        prepare_slide(SlideRow(slide_id="b", path=str(path)), config_of(), run)
    assert "masks/b_overlay.jpg" in caught.value.hint
    assert run.mask_overlay("b").exists()
    assert not run.patches("b").exists()


def test_mask_of_the_manifest_is_taken(
    run: RunDirectory, row: SlideRow, tmp_path: Path
) -> None:
    given = np.zeros((100, 160), np.uint8)
    given[20:40, 50:90] = 7
    Image.fromarray(given).save(tmp_path / "mask.png")
    prepared = prepare_slide(
        replace(row, mask=str(tmp_path / "mask.png")), config_of(), run
    )
    assert prepared.tissue_mm2 == pytest.approx(0.2 * 0.4, rel=0.02)
    assert read_mask_image(tmp_path / "mask.png").sum() == 20 * 40


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, False),
        ({"compute": {"batch_size": 4}}, False),
        ({"grid": {"stride_px": 32}}, True),
        ({"tissue": {"open_um": 50.0}}, True),
        ({"slide": {"edge": "reflect"}}, True),
    ],
)
def test_prepared_slide_is_found_again_unless_its_patches_would_change(
    run: RunDirectory, row: SlideRow, change: dict[str, dict[str, object]], again: bool
) -> None:
    prepared = prepare_slide(row, config_of(), run)
    found = read_prepared(run, row, config_of(**change))
    assert found == (None if again else prepared)


def test_other_chunks_need_no_new_preparation(run: RunDirectory, row: SlideRow) -> None:
    prepared = prepare_slide(row, config_of(), run)
    other = config_of(compute={"chunk_cells": 32})
    found = read_prepared(run, replace(row, label="macro"), other)
    assert found is not None
    assert found.label == "macro", "the manifest may say more than before"
    chunks = read_chunks(run, "s", other)
    assert found.chunks == len(chunks) < prepared.chunks
    assert sum(map(len, chunks)) == prepared.patches


def test_other_mask_is_prepared_anew(
    run: RunDirectory, row: SlideRow, tmp_path: Path
) -> None:
    given = np.zeros((100, 160), np.uint8)
    given[20:40, 50:90] = 7
    mask = tmp_path / "mask.png"
    Image.fromarray(given).save(mask)
    config, masked = config_of(), replace(row, mask=str(mask))
    prepared = prepare_slide(masked, config, run)
    assert read_prepared(run, masked, config) == prepared
    assert read_prepared(run, row, config) is None
    given[:50] = 7
    Image.fromarray(given).save(mask)
    assert read_prepared(run, masked, config) is None
    mask.write_text("no image")
    with pytest.raises(SlideError, match="its tissue mask cannot be used") as caught:
        prepare_slide(masked, config, run)
    assert "column mask of the manifest" in caught.value.hint


def test_lost_mask_or_thumbnail_is_made_again(run: RunDirectory, row: SlideRow) -> None:
    prepare_slide(row, config_of(), run)
    run.thumbnail("s").unlink()
    assert read_prepared(run, row, config_of()) is None


def test_long_preparation_shows_that_it_goes_on(
    run: RunDirectory, row: SlideRow
) -> None:
    beats: list[int] = []
    prepare_slide(row, config_of(), run, on_progress=lambda: beats.append(1))
    assert beats


def test_other_mpp_or_file_is_prepared_anew(run: RunDirectory, row: SlideRow) -> None:
    config = config_of()
    prepare_slide(row, config, run)
    assert read_prepared(run, replace(row, mpp=0.5), config) is None
    assert read_prepared(run, replace(row, path=row.path + "f"), config) is None
    assert read_prepared(run, replace(row, slide_id="t"), config) is None


def test_manifest_mpp_that_differs_from_the_file_is_flagged(
    run: RunDirectory, row: SlideRow
) -> None:
    prepared = prepare_slide(replace(row, mpp=0.98), config_of(), run)
    assert prepared.mpp_source == "manifest"
    assert prepared.effective_mpp_x == 0.98
    assert prepared.qc == ()
    prepared = prepare_slide(replace(row, mpp=0.5), config_of(), run)
    assert "mpp differs from file" in prepared.qc


def test_untrained_members_are_named_on_every_overlay() -> None:
    member = {"name": "a", "architecture": "Unet", "encoder": "resnet18"}
    config = from_tree({"members": [{**member, "weights": "random"}]})
    assert overlay_notes(config)[0] == "untrained members: not a prediction"
    assert overlay_notes(from_tree({})) == ["for research use only"]


def test_a_record_serves_as_the_row_it_was_made_of(
    run: RunDirectory, row: SlideRow
) -> None:
    """So ``digipath segment`` goes on from the SLIDES table."""
    prepared = prepare_slide(row, config_of(), run)
    again = SlideRecord.from_row(prepared.to_row())
    assert again.columns() == row.columns()
    assert read_prepared(run, again, config_of()) == prepared
    assert prepare_slide(again, config_of(), run) == prepared
