import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import merge, recipe_from_tree
from digipath_ray.demo.cohort import damage
from digipath_ray.schema import DRAWS
from digipath_ray.training.reader import OPEN_SLIDES, PatchReader, open_annotated
from tests.annotated import FIT, RADIUS, SIDE, write_disc
from tests.slides import write_pyramid

NO_COLOR = {
    "blur_px": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
}


def write_truthful_slide(path: Path, *, mpp: float = 1.0) -> Path:
    """A slide whose green channel is low just where the disc is."""
    y, x = np.indices((SIDE, SIDE)) + 0.5
    # The annotation is a polygon of 128 corners, a hair inside the circle.
    turn = np.arctan2(y - SIDE / 2, x - SIDE / 2)
    step = 2 * np.pi / 128
    apothem = RADIUS * np.cos(step / 2) / np.cos(np.mod(turn, step) - step / 2)
    disc = np.hypot(x - SIDE / 2, y - SIDE / 2) < apothem
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    pixels[..., 1] = np.where(disc, 40, 160)
    return write_pyramid(path, pixels, mpp=mpp)


@pytest.fixture
def slide(tmp_path: Path) -> SlideRow:
    path = write_truthful_slide(tmp_path / "s.tif")
    disc = write_disc(tmp_path / "disc.geojson")
    return SlideRow(slide_id="s", path=str(path), annotation=str(disc), label="macro")


def recipe(changes: dict | None = None) -> Recipe:
    return recipe_from_tree(merge(FIT, {"augment": NO_COLOR}, changes or {}))


def draws(rows: list[dict]) -> pa.Table:
    whole = [
        {
            "slide_id": "s",
            "x": 0,
            "y": 0,
            "tumor": 0.0,
            "area_mm2": 2.0,
            "dx": 0,
            "dy": 0,
            "seed": -1,
            "batch": 0,
            **row,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(whole, schema=DRAWS)


def test_truth_lies_where_the_pixels_say_however_a_patch_is_moved_and_turned(slide):
    rng = np.random.default_rng(0)
    table = draws(
        [
            {
                "x": int(rng.integers(60, 200)),
                "y": int(rng.integers(60, 200)),
                "dx": int(rng.integers(-40, 40)),
                "dy": int(rng.integers(-40, 40)),
                "seed": int(seed),
            }
            for seed in rng.integers(0, 2**62, 40)
        ]
    )
    batch = PatchReader({"s": slide}, recipe()).read(table)
    seen = batch["pixels"][..., 1] < 100
    np.testing.assert_array_equal(batch["tumor"], seen)
    assert 0.05 < seen.mean() < 0.95
    assert batch["weight"].min() == 1
    assert set(batch["area_mm2"]) == {2.0}


def test_a_patch_lies_where_its_draw_says(slide):
    table = draws([{"x": 90, "y": 70, "dx": 5, "dy": -3}])
    batch = PatchReader({"s": slide}, recipe()).read(table)
    with open_annotated(slide, recipe()).slide as opened:
        expected = opened.read_level(0, 95, 67, 64, 64)
    np.testing.assert_array_equal(batch["pixels"][0], expected)


@pytest.mark.parametrize(
    ("x", "y", "corner"),
    [(-50, 100, (0, 100)), (300, 310, (256, 256)), (100, -1, (100, 0))],
)
def test_a_patch_is_held_to_the_slide(slide, x, y, corner):
    batch = PatchReader({"s": slide}, recipe()).read(draws([{"x": x, "y": y}]))
    with open_annotated(slide, recipe()).slide as opened:
        expected = opened.read_level(0, *corner, 64, 64)
    np.testing.assert_array_equal(batch["pixels"][0], expected)


def test_truth_follows_a_slide_that_is_resampled(tmp_path):
    path = write_truthful_slide(tmp_path / "s.tif", mpp=0.4)
    disc = write_disc(tmp_path / "disc.geojson")
    row = SlideRow(slide_id="s", path=str(path), annotation=str(disc), mpp=None)
    batch = PatchReader({"s": row}, recipe()).read(draws([{"x": 80, "y": 80}]))
    # 128 px of 1 um are the whole slide's 128 um: the disc is 48 um wide.
    seen = batch["pixels"][0, ..., 1] < 100
    assert (batch["tumor"][0] != seen).mean() < 0.01
    area = math.pi * (RADIUS * 0.4) ** 2
    whole = open_annotated(row, recipe()).truth(0, 0, 128)[0].sum()
    assert whole == pytest.approx(area, rel=0.02)


def test_what_is_marked_as_ignored_has_no_weight(tmp_path, slide):
    text = Path(str(slide.annotation)).read_text().replace('"Tumor"', '"Ignore*"')
    Path(str(slide.annotation)).write_text(text)
    batch = PatchReader({"s": slide}, recipe()).read(draws([{"x": 128, "y": 128}]))
    assert not batch["tumor"].any()
    np.testing.assert_array_equal(
        batch["weight"][0] == 0, batch["pixels"][0, ..., 1] < 100
    )


def test_a_slide_that_cannot_be_read_weighs_nothing_and_says_why(tmp_path, slide):
    other = write_truthful_slide(tmp_path / "bad.tif")
    damage(other)
    bad = SlideRow(slide_id="bad", path=str(other), label="negative")
    gone = SlideRow(slide_id="gone", path=str(tmp_path / "gone.tif"), label="negative")
    reader = PatchReader({"s": slide, "bad": bad, "gone": gone}, recipe())
    table = draws([{"slide_id": i, "x": 100, "y": 100} for i in ("bad", "s", "gone")])
    for _ in range(2):  # the second time it is known to be broken
        batch = reader.read(table)
        assert [w.mean() for w in batch["weight"]] == [0, 1, 0]
        assert "bad.tif" in batch["error"][0]
        assert batch["error"][1] == ""
        assert "gone.tif: file not found" in batch["error"][2]
        assert not batch["pixels"][0].any()


def test_no_more_slides_stay_open_than_allowed(slide):
    n = OPEN_SLIDES + 3
    slides = {str(i): slide for i in range(n)}
    reader = PatchReader(slides, recipe())
    table = draws([{"slide_id": str(i), "x": 100, "y": 100} for i in range(n)])
    first, again = reader.read(table), reader.read(table)
    assert len(reader._open) == OPEN_SLIDES
    np.testing.assert_array_equal(first["pixels"], again["pixels"])
    assert all((p == first["pixels"][0]).all() for p in first["pixels"])
    reader.close()
    assert not reader._open
