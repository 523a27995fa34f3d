"""Mask: physical morphology against a distance transform, and its PNG."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from scipy import ndimage

from digipath_ray.tissue.mask import Mask, read_mask, read_mask_image, write_mask

BOOLS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24))
MPP = st.sampled_from([0.5, 2.0, 7.7, 8.0])


def row(text: str, *, mpp: float = 8.0, height: int = 60) -> Mask:
    """Vertical stripes: one column per character, '#' true."""
    line = np.array([c == "#" for c in text])
    return Mask(array=np.tile(line, (height, 1)), mpp_x=mpp, mpp_y=mpp)


def text(mask: Mask) -> str:
    assert (mask.array == mask.array[0]).all()
    return "".join(".#"[int(v)] for v in mask.array[0])


def test_area_counts_pixels_of_both_sides() -> None:
    array = np.zeros((4, 5), np.bool_)
    array[1:3, 1:4] = True
    assert Mask(array=array, mpp_x=500.0, mpp_y=250.0).area_mm2 == 0.75


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3), np.uint8), r"not uint8 \[2, 3\]"),
        (np.zeros((2, 3, 1), np.bool_), r"not bool \[2, 3, 1\]"),
    ],
)
def test_only_boolean_rows_and_columns(array: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mask(array=array, mpp_x=8.0, mpp_y=8.0)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_pixels_have_a_size(mpp: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Mask(array=np.zeros((1, 1), np.bool_), mpp_x=8.0, mpp_y=mpp)


@settings(deadline=None)
@given(array=BOOLS, mpp_x=MPP, mpp_y=MPP, radius_um=st.floats(0, 100))
def test_dilation_is_the_distance_transform(
    array: np.ndarray, mpp_x: float, mpp_y: float, radius_um: float
) -> None:
    mask = Mask(array=array, mpp_x=mpp_x, mpp_y=mpp_y)
    if not array.any():
        assert not mask.dilated(radius_um).array.any()
        return
    distance = ndimage.distance_transform_edt(~array, sampling=(mpp_y, mpp_x))
    sure = np.abs(distance - radius_um) > 1e-6 * max(mpp_x, mpp_y)
    got = mask.dilated(radius_um).array
    assert np.array_equal(got[sure], (distance <= radius_um)[sure])


@settings(deadline=None)
@given(array=BOOLS, mpp_x=MPP, mpp_y=MPP, width_um=st.floats(0, 100))
def test_closing_only_adds_and_opening_only_removes_at_once(
    array: np.ndarray, mpp_x: float, mpp_y: float, width_um: float
) -> None:
    mask = Mask(array=array, mpp_x=mpp_x, mpp_y=mpp_y)
    closed, opened = mask.closed(width_um), mask.opened(width_um)
    assert not (mask.array & ~closed.array).any()
    assert not (opened.array & ~mask.array).any()
    assert np.array_equal(opened.opened(width_um).array, opened.array)


@pytest.mark.parametrize(("mpp", "px"), [(8.0, 20), (4.0, 40), (32.0, 5)])
def test_gaps_up_to_160_um_are_closed_at_any_mpp(mpp: float, px: int) -> None:
    side = "#" * 30
    assert text(row(f"{side}{'.' * px}{side}", mpp=mpp).closed(160.0)) == "#" * (
        60 + px
    )
    wider = row(f"{side}{'.' * (px + 2)}{side}", mpp=mpp)
    assert text(wider.closed(160.0)) == text(wider)


@pytest.mark.parametrize(("mpp", "px"), [(8.0, 5), (4.0, 10), (20.0, 2)])
def test_specks_up_to_40_um_are_removed_at_any_mpp(mpp: float, px: int) -> None:
    glass = "." * 30
    bar = row(f"{glass}{'#' * px}{glass}", mpp=mpp)
    assert text(bar.opened(40.0)) == "." * (60 + px)
    wider = row(f"{glass}{'#' * (px + 2)}{glass}", mpp=mpp)
    assert text(wider.opened(40.0)) == text(wider)


def test_widths_hold_for_each_axis_of_unequal_pixels() -> None:
    # 40 um are 10 columns of 4 um, but 2 rows of 20 um.
    array = np.zeros((40, 80), np.bool_)
    array[10:12, 10:70] = True  # 2 rows: 40 um high
    array[20:30, 10:22] = True  # 12 columns: 48 um wide
    opened = Mask(array=array, mpp_x=4.0, mpp_y=20.0).opened(40.0).array
    assert not opened[10:12].any()
    assert opened[24:26, 10:22].all()


def test_a_part_at_the_edge_may_go_on_beyond_it() -> None:
    # Half of a bar of 8 px, which a speck's width of 5 px does not remove.
    edge = row("####" + "." * 30)
    assert text(edge.opened(40.0)) == text(edge)


def test_what_lies_between_a_part_and_the_edge_is_no_gap() -> None:
    edge = row("...." + "#" * 30)
    assert text(edge.closed(160.0)) == text(edge)


def test_one_pixel() -> None:
    one = Mask(array=np.ones((1, 1), np.bool_), mpp_x=8.0, mpp_y=8.0)
    for same in (one.dilated(240.0), one.closed(160.0), one.opened(40.0)):
        assert same.array.tolist() == [[True]]


@pytest.mark.parametrize("mpp", [(8.0, 8.0), (7.776, 7.992), (63.7, 0.5031)])
def test_png_keeps_pixels_and_physical_size(
    tmp_path: Path, mpp: tuple[float, float]
) -> None:
    array = np.random.default_rng(0).random((7, 11)) > 0.5
    path = tmp_path / "mask.png"
    write_mask(path, Mask(array=array, mpp_x=mpp[0], mpp_y=mpp[1]))
    back = read_mask(path)
    assert np.array_equal(back.array, array)
    assert (back.mpp_x, back.mpp_y) == pytest.approx(mpp, rel=1e-4)
    with Image.open(path) as image:
        assert image.mode == "L"
        assert set(np.unique(np.asarray(image))) == {0, 255}


def test_png_of_8_um_says_125_000_px_per_meter(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, Mask(array=np.ones((1, 1), np.bool_), mpp_x=8.0, mpp_y=8.0))
    data = path.read_bytes()
    at = data.index(b"pHYs") + 4
    assert data[at : at + 9] == (125_000).to_bytes(4, "big") * 2 + b"\x01"


def test_a_png_without_size_is_refused_and_read_as_an_image(tmp_path: Path) -> None:
    path = tmp_path / "drawn.png"
    Image.fromarray(np.array([[0, 1], [7, 255]], np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"drawn\.png.*has no physical size"):
        read_mask(path)
    assert read_mask_image(path).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_any_value_above_zero_is_tissue_in_any_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "drawn.png"
    values = np.array([[0, 255, 0]], np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "P":
        image = Image.frombytes("P", (3, 1), bytes([0, 1, 0]))
        image.putpalette([0, 0, 0, 255, 0, 0])
    else:
        image = Image.fromarray(values).convert(mode)
    image.save(path)
    assert read_mask_image(path).tolist() == [[False, True, False]]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.png: cannot read the image"):
        read_mask(path)


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.png"):
        read_mask_image(tmp_path / "absent.png")


def test_an_image_too_large_for_a_mask_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.png"
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(path)
    monkeypatch.setattr("digipath_ray.tissue.mask.MAX_MASK_PX", 899)
    with pytest.raises(ValueError, match="too large for a mask"):
        read_mask_image(path)
