"""Outlines hold their pixels and no others, and come back as the same annotation."""

import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from digipath_ray.annotations import read_annotation
from digipath_ray.outcome.qupath import feature, outline, trace, write_features

BOOLS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))
RED = (200, 0, 0)


def pixels_of(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


def on_slide(pixels: np.ndarray, **changes: Any):
    where = {
        "x": 0.0,
        "y": 0.0,
        "l0_per_px_x": 16.0,
        "l0_per_px_y": 16.0,
        "max_x": 1e6,
        "max_y": 1e6,
    }
    return outline(pixels, **(where | changes))


def centers_inside(shape, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    return shapely.contains_xy(shape, x, y)


def test_an_outline_has_its_corners_and_no_more() -> None:
    shape = trace(pixels_of("## ## #."))
    assert shape.equals(
        shapely.Polygon([(0, 0), (2, 0), (2, 2), (1, 2), (1, 3), (0, 3)])
    )
    assert shapely.get_num_coordinates(shape) == 7


def test_holes_are_kept_and_so_is_what_lies_in_them() -> None:
    shape = trace(pixels_of("##### #...# #.#.# #...# #####"))
    ring, dot = sorted(shapely.get_parts(shape), key=lambda part: -part.area)
    assert (ring.area, dot.area) == (16, 1)
    assert shapely.get_num_interior_rings(ring) == 1
    assert dot.bounds == (2, 2, 3, 3)


def test_pixels_that_touch_in_a_corner_are_two_valid_polygons() -> None:
    shape = trace(pixels_of("#. .#"))
    assert shape.is_valid
    assert [part.area for part in shapely.get_parts(shape)] == [1, 1]
    # A hole that touches the outside in a corner.
    assert trace(pixels_of("### #.# ##.")).is_valid


@settings(deadline=None, max_examples=100)
@given(pixels=BOOLS)
def test_an_outline_holds_its_pixels_and_no_others(pixels: np.ndarray) -> None:
    shape = trace(pixels)
    assert shape.geom_type == "MultiPolygon"
    assert shape.is_valid
    assert shape.area == pixels.sum()
    assert np.array_equal(centers_inside(shape, *pixels.shape), pixels)
    rings = shapely.get_rings(shapely.get_parts(shape))
    for x, y in (shapely.get_coordinates(ring).T for ring in rings):
        # No point between two corners: borders turn at each.
        assert ((np.diff(x) == 0) != (np.diff(y) == 0)).all()
        assert (np.diff(np.diff(x) == 0) != 0).all()


@settings(deadline=None, max_examples=60)
@given(
    pixels=BOOLS,
    x=st.floats(0, 1e5),
    l0_per_px_x=st.floats(0.5, 40),
    l0_per_px_y=st.floats(0.5, 40),
    max_px=st.floats(0, 14),
)
def test_outlines_on_a_slide_are_valid_and_end_where_it_ends(
    pixels: np.ndarray, x: float, l0_per_px_x: float, l0_per_px_y: float, max_px: float
) -> None:
    shape = on_slide(
        pixels,
        x=x,
        l0_per_px_x=l0_per_px_x,
        l0_per_px_y=l0_per_px_y,
        max_x=x + max_px * l0_per_px_x,
    )
    assert shape.is_valid
    cols = np.arange(pixels.shape[1])
    widths = (max_px - cols).clip(0, 1)
    expected = (pixels * widths).sum() * l0_per_px_x * l0_per_px_y
    assert shape.area == pytest.approx(expected, rel=1e-6, abs=1e-2)


def test_an_outline_lies_where_its_pixels_lie() -> None:
    shape = on_slide(
        pixels_of(".# .#"), x=100.0, y=50.0, l0_per_px_x=16.0, l0_per_px_y=8.0
    )
    assert shape.bounds == (116, 50, 132, 66)
    cut = on_slide(pixels_of("## ##"), x=100.0, max_x=125.0, y=7.0, max_y=23.0)
    assert cut.bounds == (100, 7, 125, 23)
    assert on_slide(pixels_of("##"), x=100.0, max_x=90.0).is_empty


def test_no_pixels_have_no_outline() -> None:
    assert trace(pixels_of("... ...")).is_empty


@dataclass(frozen=True)
class Size:
    width: int
    height: int


def test_features_come_back_as_the_annotation_they_were(tmp_path: Path) -> None:
    pixels = pixels_of("##### #...# #.#.# #...# #####")
    written = feature(
        on_slide(pixels),
        class_name="Tumor",
        color=RED,
        name="lesion 1",
        measurements={"Area mm^2": 0.5},
    )
    path = tmp_path / "lesions" / "s.geojson"
    write_features(path, iter([written]), notes={"made_by": "a test"})
    tree = json.loads(path.read_text())
    assert tree["type"] == "FeatureCollection"
    assert tree["made_by"] == "a test"
    assert tree["features"] == [written]
    back = read_annotation(path, slide=Size(width=80, height=80))
    assert back.area_px == 17 * 16**2


def test_a_feature_is_as_qupath_writes_it() -> None:
    told = {"class_name": "Tumor", "color": RED, "measurements": {"Max p": 0.9}}
    one = feature(on_slide(pixels_of("#")), name="lesion 1", **told)
    assert one == {
        "type": "Feature",
        "id": one["id"],
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[0, 0], [0, 16], [16, 16], [16, 0], [0, 0]]],
        },
        "properties": {
            "objectType": "annotation",
            "name": "lesion 1",
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "isLocked": False,
            "measurements": {"Max p": 0.9},
        },
    }
    assert uuid.UUID(one["id"]).version == 5
    assert feature(on_slide(pixels_of("#")), name="again", **told)["id"] == one["id"]
    two = feature(on_slide(pixels_of("#.#")), name="lesion 2", **told)
    assert two["id"] != one["id"]
    assert two["geometry"]["type"] == "MultiPolygon"


def test_a_measurement_that_is_no_number_is_refused(tmp_path: Path) -> None:
    written = feature(
        on_slide(pixels_of("#")),
        class_name="Tumor",
        color=RED,
        name="lesion 1",
        measurements={"Skew": float("nan")},
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_features(tmp_path / "s.geojson", [written])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", [7, 23])
def test_any_pixels_are_the_sum_of_their_squares(side: int) -> None:
    pixels = np.random.default_rng(side).random((side, side + 2)) > 0.4
    squares = [shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(pixels)]
    shape = trace(pixels)
    assert shape.is_valid
    assert shapely.symmetric_difference(shape, shapely.union_all(squares)).area == 0


@pytest.mark.parametrize("limit", [1e6, 40.0])
def test_an_outline_at_hand_is_taken_where_nothing_is_cut_off(limit: float) -> None:
    pixels = pixels_of("### #.# ###")
    where = {"x": 3.0, "max_x": limit, "max_y": limit}
    assert on_slide(pixels, traced=trace(pixels), **where) == on_slide(pixels, **where)


def test_a_million_pixels_take_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    rough = ndimage.gaussian_filter(np.random.default_rng(0).random((1400, 1400)), 6)
    pixels = rough > 0.5
    start = time.process_time()
    shape = trace(pixels)
    seconds = time.process_time() - start
    assert shape.area == pixels.sum()
    with capsys.disabled():
        corners = shapely.get_num_coordinates(shape)
        print(f"\n{pixels.sum()} px, {corners} corners: traced in {seconds:.2f} s")


def test_coordinates_have_two_decimals() -> None:
    shape = outline(
        np.ones((2, 2), bool),
        x=0,
        y=0,
        l0_per_px_x=32.12345,
        l0_per_px_y=16.54321,
        max_x=500,
        max_y=30.0012345,
    )
    made = feature(shape, class_name="Tumor", color=(1, 2, 3), name="", measurements={})
    (ring,) = made["geometry"]["coordinates"]
    assert sorted({x for x, _ in ring}) == [0, 64.25]
    assert sorted({y for _, y in ring}) == [0, 30.0]
