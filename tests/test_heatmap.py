from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath_ray.config.run import GridSpec
from digipath_ray.heatmap.canvas import Canvas, blend_window, sum_patches
from digipath_ray.heatmap.file import halve, pyramid_levels, read_heatmap, write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap


def spec(patch: int, stride: int) -> GridSpec:
    """A grid whose patch and stride are so many HEATMAP px."""
    return GridSpec(patch_px=patch * 32, stride_px=stride * 32, downsample=32)


def number_blocks(cells, side):
    """Block positions of the cells' patches, and their numbers [n, side, side]."""
    steps = list(product(range(side), repeat=2))
    blocks = sorted({(r + a, c + b) for r, c in cells for a, b in steps})
    number = {block: i for i, block in enumerate(blocks)}
    index = [[number[r + a, c + b] for a, b in steps] for r, c in cells]
    shape = (len(cells), side, side)
    return np.array(blocks), np.array(index, np.int64).reshape(shape)


def stitch(values, cells, grid, *, window, width, height, chunks=1):
    """The heatmap of patches, in ``chunks`` chunks added to one canvas."""
    canvas = Canvas.empty(tuple(values), width=width, height=height)
    for part in np.array_split(np.arange(len(cells)), chunks):
        blocks, index = number_blocks([cells[i] for i in part], grid.blocks_per_side)
        chunk = {name: v[part] for name, v in values.items()}
        sums, weight = sum_patches(
            chunk, index, len(blocks), window=window, hm_stride=grid.hm_stride
        )
        canvas.add(blocks, sums, weight)
    return canvas.heatmap(mpp_x=4.0, mpp_y=4.0)


def heatmap_of(data, channels=("probability",), weight=None, mpp=(4.0, 4.0)):
    data = np.asarray(data, np.float32)
    weight = np.ones(data.shape[1:], np.float32) if weight is None else weight
    return Heatmap(
        channels=channels, data=data, weight=weight, mpp_x=mpp[0], mpp_y=mpp[1]
    )


def test_two_patches_average_where_they_overlap():
    values = np.array([np.full((2, 2), 0.25), np.full((2, 2), 0.75)], np.float32)
    heatmap = stitch(
        {"probability": values},
        [(0, 0), (0, 1)],
        spec(2, 1),
        window=blend_window(spec(2, 1), "mean"),
        width=4,
        height=3,
    )
    assert heatmap.probability.tolist() == [
        [0.25, 0.5, 0.75, 0],
        [0.25, 0.5, 0.75, 0],
        [0, 0, 0, 0],
    ]
    assert heatmap.weight.tolist() == [[1, 2, 1, 0], [1, 2, 1, 0], [0, 0, 0, 0]]


def test_stride_that_does_not_divide_the_patch():
    # Patch of 3, stride of 2: blocks of 2, of which the second is covered by half.
    first, second = np.full((3, 3), 0.0), np.full((3, 3), 1.0)
    heatmap = stitch(
        {"probability": np.array([first, second], np.float32)},
        [(0, 0), (0, 1)],
        spec(3, 2),
        window=blend_window(spec(3, 2), "mean"),
        width=5,
        height=4,
    )
    assert heatmap.probability[0].tolist() == [0, 0, 0.5, 1, 1]
    assert heatmap.weight.tolist() == [[1, 1, 2, 1, 1]] * 3 + [[0] * 5]


def test_linear_window_is_a_tent():
    window = blend_window(spec(4, 2), "linear")
    assert window[0].tolist() == [1 / 16, 3 / 16, 3 / 16, 1 / 16]
    assert window[1].tolist() == [3 / 16, 9 / 16, 9 / 16, 3 / 16]


def test_gaussian_window_has_a_sigma_of_an_eighth_of_the_patch():
    window = blend_window(spec(16, 8), "gaussian")
    # Half a px and one and a half px from the center, sigma 2.
    expected = np.exp(-((1.5**2 - 0.5**2) / (2 * 2**2)))
    assert window[8, 9] / window[8, 8] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("blend", ["mean", "linear", "gaussian"])
@pytest.mark.parametrize("patch", [1, 2, 5, 64])
def test_windows_are_symmetric_and_positive_to_the_corner(blend, patch):
    window = blend_window(spec(patch, patch), blend)
    assert window.shape == (patch, patch)
    assert window.dtype == np.float32
    assert window.min() > 0
    np.testing.assert_array_equal(window, window.T)
    np.testing.assert_array_equal(window, window[::-1])


@pytest.mark.parametrize("blend", ["mean", "linear", "gaussian"])
@pytest.mark.parametrize(("patch", "stride"), [(8, 4), (8, 3), (5, 5), (4, 1)])
def test_a_constant_field_stays_constant(blend, patch, stride):
    grid = spec(patch, stride)
    cells = list(product(range(3), range(4)))
    width, height = stride * 3 + patch, stride * 2 + patch
    heatmap = stitch(
        {"probability": np.full((12, patch, patch), 0.7, np.float32)},
        cells,
        grid,
        window=blend_window(grid, blend),
        width=width,
        height=height,
        chunks=3,
    )
    np.testing.assert_allclose(heatmap.probability, 0.7, rtol=1e-6)


@pytest.mark.parametrize("blend", ["linear", "gaussian"])
def test_blending_favors_the_patch_whose_center_is_near(blend):
    grid = spec(8, 4)
    values = np.stack([np.zeros((8, 8)), np.ones((8, 8))]).astype(np.float32)
    heatmap = stitch(
        {"probability": values},
        [(0, 0), (0, 1)],
        grid,
        window=blend_window(grid, blend),
        width=12,
        height=8,
    )
    overlap = heatmap.probability[3, 4:8]
    assert (np.diff(overlap) > 0).all()
    np.testing.assert_allclose(overlap + overlap[::-1], 1, rtol=1e-6)
    assert heatmap.probability[3, 3] == 0
    assert heatmap.probability[3, 8] == 1


@st.composite
def grids(draw):
    patch = draw(st.integers(1, 7))
    stride = draw(st.integers(1, patch))
    cell = st.tuples(st.integers(0, 3), st.integers(0, 3))
    cells = draw(st.lists(cell, unique=True, min_size=1, max_size=8))
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    blend = draw(st.sampled_from(["mean", "linear", "gaussian"]))
    chunks = draw(st.integers(1, len(cells)))
    seed = draw(st.integers(0, 1000))
    return spec(patch, stride), cells, size, blend, chunks, seed


@settings(deadline=None, max_examples=150)
@given(grids())
def test_stitching_equals_a_loop_over_pixels(drawn):
    grid, cells, (width, height), blend, chunks, seed = drawn
    patch, stride = grid.hm_patch, grid.hm_stride
    window = blend_window(grid, blend)
    random = np.random.default_rng(seed)
    values = {
        name: random.random((len(cells), patch, patch), np.float32)
        for name in ("probability", "epistemic")
    }
    sums = np.zeros((2, height, width))
    weight = np.zeros((height, width))
    for i, (row, col) in enumerate(cells):
        for y, x in product(range(patch), repeat=2):
            hm_y, hm_x = row * stride + y, col * stride + x
            if hm_y < height and hm_x < width:
                weight[hm_y, hm_x] += window[y, x]
                for c, channel in enumerate(values.values()):
                    sums[c, hm_y, hm_x] += float(window[y, x]) * channel[i, y, x]
    expected = np.divide(sums, weight, out=np.zeros_like(sums), where=weight > 0)
    heatmap = stitch(
        values, cells, grid, window=window, width=width, height=height, chunks=chunks
    )
    assert heatmap.channels == ("probability", "epistemic")
    np.testing.assert_allclose(heatmap.data, expected, atol=1e-6)
    np.testing.assert_allclose(heatmap.weight, weight, rtol=1e-5)
    assert heatmap.data.dtype == heatmap.weight.dtype == np.float32
    assert heatmap.data.max() <= 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_chunks_add_up_in_any_order_to_what_one_chunk_gives(order: tuple[int, int]):
    grid = spec(4, 2)
    window = blend_window(grid, "mean")
    values = np.arange(5 * 16, dtype=np.float32).reshape(5, 4, 4) / 128
    cells = [(0, 0), (0, 1), (1, 1), (2, 0), (2, 2)]
    parts = ([0, 1], [2, 3, 4])
    canvas = Canvas.empty(("probability",), width=9, height=7)
    for number in order:
        part = parts[number]
        blocks, index = number_blocks([cells[i] for i in part], 2)
        chunk = {"probability": values[part]}
        canvas.add(
            blocks, *sum_patches(chunk, index, len(blocks), window=window, hm_stride=2)
        )
    whole = stitch(
        {"probability": values}, cells, grid, window=window, width=9, height=7
    )
    np.testing.assert_array_equal(canvas.heatmap(mpp_x=1, mpp_y=1).data, whole.data)


def test_sums_are_in_the_order_of_the_channels():
    ones = np.ones((1, 2, 2), np.float32)
    sums, weight = sum_patches(
        {"b": ones * 2, "a": ones * 3},
        np.zeros((1, 1, 1), np.int32),
        1,
        window=ones[0],
        hm_stride=2,
    )
    assert sums[:, 0, 0, 0].tolist() == [2, 3]
    assert weight.tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([[[0]], [[0]]], "two patches of a chunk have the same cell"),
        ([[[0]], [[2]]], "beyond the chunk's 2 blocks"),
        ([[[0]], [[-1]]], "beyond the chunk's 2 blocks"),
        ([[[0]]], "patches have shape"),
        ([[[0, 1], [0, 1]]] * 2, "has 1 x 1 blocks"),
    ],
)
def test_sum_patches_names_what_does_not_fit(index, message):
    values = {"probability": np.zeros((2, 2, 2), np.float32)}
    window = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        sum_patches(values, np.array(index), 2, window=window, hm_stride=2)


def test_canvas_refuses_blocks_before_the_grid_and_other_channels():
    canvas = Canvas.empty(("probability",), width=4, height=4)
    sums, weight = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="starts at"):
        canvas.add(np.array([[0, -1]]), sums, weight)
    with pytest.raises(ValueError, match="do not fit 1 channels"):
        canvas.add(np.array([[0, 0]]), np.concatenate([sums, sums]), weight)


def test_a_block_wholly_beyond_the_edge_is_dropped():
    canvas = Canvas.empty(("probability",), width=3, height=2)
    sums, weight = np.ones((1, 2, 2, 2), np.float32), np.ones((2, 2, 2), np.float32)
    canvas.add(np.array([[0, 1], [5, 7]]), sums, weight)
    assert canvas.weight.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_area_counts_predicted_pixels_at_the_effective_mpp():
    # 0.243 um per model px taken 16 times: 3.888 um, not 4.
    probability = np.array([[[0.5, 0.9], [0.4, 0.0]]], np.float32)
    heatmap = heatmap_of(probability, mpp=(3.888, 3.9))
    assert heatmap.area_mm2(0.5) == pytest.approx(2 * 3.888 * 3.9 / 1e6, rel=1e-12)
    unpredicted = heatmap_of(probability, weight=np.zeros((2, 2), np.float32))
    assert unpredicted.area_mm2(0.0) == 0


def test_what_was_not_estimated_is_none():
    heatmap = heatmap_of(np.zeros((2, 1, 1)), ("probability", "member:unet"))
    assert heatmap.aleatoric is None
    assert heatmap.epistemic is None
    assert heatmap.channel("member:unet") is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": ("aleatoric",)}, "no probability"),
        ({"weight": np.zeros((3, 2), np.float32)}, "data has shape"),
        ({"mpp_y": 0.0}, "mpp_y = 0.0"),
    ],
)
def test_heatmap_names_the_wrong_field(fields, message):
    good = {
        "channels": ("probability",),
        "data": np.zeros((1, 2, 2), np.float32),
        "weight": np.zeros((2, 2), np.float32),
        "mpp_x": 1.0,
        "mpp_y": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        Heatmap(**{**good, **fields})


def test_halve_takes_means_and_keeps_an_odd_side():
    plane = np.array([[0, 4, 8], [2, 2, 6], [1, 3, 5]], np.float32)
    assert halve(plane).tolist() == [[2, 7], [2, 5]]
    assert halve(np.array([[3]], np.float32)).tolist() == [[3]]


def test_pyramid_ends_at_256_px():
    assert [pyramid_levels(w, 1) for w in (1, 256, 257, 512, 513, 6250)] == [
        0, 0, 1, 1, 2, 5,
    ]  # fmt: skip


CHANNELS = ("probability", "aleatoric", "epistemic", "member:unet<b&w>")


def random_heatmap(width, height, channels=CHANNELS):
    random = np.random.default_rng(7)
    data = random.random((len(channels), height, width), np.float32)
    weight = random.integers(0, 5, (height, width)).astype(np.float32)
    return heatmap_of(data, channels, weight, (3.8879999999999995, 1 / 3))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (10, 7), (3, 4), (1, 257), (601, 300)]
)
def test_a_written_heatmap_reads_back_exactly(tmp_path, width, height):
    heatmap = random_heatmap(width, height)
    write_heatmap(tmp_path / "s.ome.tiff", heatmap, name="s")
    back = read_heatmap(tmp_path / "s.ome.tiff")
    np.testing.assert_array_equal(back.data, heatmap.data)
    np.testing.assert_array_equal(back.weight, heatmap.weight)
    assert back.data.dtype == np.float32
    assert back.channels == CHANNELS
    assert (back.mpp_x, back.mpp_y) == (heatmap.mpp_x, heatmap.mpp_y)
    assert (back.width, back.height) == (width, height)


def test_file_has_tiles_deflate_and_a_pyramid_of_means(tmp_path):
    heatmap = random_heatmap(601, 300, ("probability",))
    path = tmp_path / "s.ome.tiff"
    write_heatmap(path, heatmap, name="s")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        levels = tiff.series[0].levels
        assert [level.shape for level in levels] == [
            (2, 300, 601), (2, 150, 301), (2, 75, 151),
        ]  # fmt: skip
        assert levels[0].axes == "CYX"
        frames = (frame for level in levels for frame in level.pages)
        for page in (frame.aspage() for frame in frames):
            assert page.compression == 8
            # Not 3: Bio-Formats 7.3.1 refuses it as "Unknown Predictor (3)".
            assert page.predictor == 1
            assert (page.tilewidth, page.tilelength) == (256, 256)
            assert page.dtype == np.float32
        assert len(tiff.pages) == 2
        assert len(tiff.pages[0].subifds) == 2
        assert tiff.pages[0].pages[0].subfiletype == 1
        once = levels[1].asarray()
        np.testing.assert_array_equal(once[0], halve(heatmap.probability))
        np.testing.assert_array_equal(levels[2].asarray()[1], halve(once[1]))


def test_ome_xml_names_channels_sizes_and_micrometers(tmp_path):
    path = tmp_path / "s.ome.tiff"
    write_heatmap(path, random_heatmap(10, 7), name="slide <1>")
    with tifffile.TiffFile(path) as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata)
    image = root.find("{*}Image")
    pixels = image.find("{*}Pixels")
    assert image.get("Name") == "slide <1>"
    assert pixels.get("Type") == "float"
    assert [pixels.get(f"Size{axis}") for axis in "XYCZT"] == ["10", "7", "5", "1", "1"]
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    assert names == [*CHANNELS, "weight"]
    assert pixels.get("PhysicalSizeX") == "3.8879999999999995"
    assert pixels.get("PhysicalSizeY") == "0.3333333333333333"
    assert pixels.get("PhysicalSizeXUnit") == "µm"
    assert pixels.get("PhysicalSizeYUnit") == "µm"


def test_equal_heatmaps_give_equal_files_and_other_ones_another_identity(tmp_path):
    paths = [tmp_path / f"{i}.ome.tiff" for i in range(3)]
    write_heatmap(paths[0], random_heatmap(10, 7), name="s")
    write_heatmap(paths[1], random_heatmap(10, 7), name="s")
    write_heatmap(paths[2], random_heatmap(10, 7), name="t")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    uuids = []
    for path in paths:
        with tifffile.TiffFile(path) as tiff:
            uuids.append(ElementTree.fromstring(tiff.ome_metadata).get("UUID"))
    assert uuids[0] == uuids[1] != uuids[2]


def test_a_map_beyond_4_gb_is_bigtiff(tmp_path, monkeypatch):
    # The limit is lowered instead of 4 GB written: 2 planes of one tile are 0.7 MB.
    monkeypatch.setattr("digipath_ray.heatmap.file.CLASSIC_TIFF_BYTES", 600_000)
    path = tmp_path / "s.ome.tiff"
    heatmap = random_heatmap(10, 7, ("probability",))
    write_heatmap(path, heatmap, name="s")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(read_heatmap(path).data, heatmap.data)


def test_reading_what_is_no_heatmap_says_so(tmp_path):
    text, plain, other = (tmp_path / f"{name}.tiff" for name in ("a", "b", "c"))
    text.write_text("no TIFF")
    with pytest.raises(ValueError, match=r"a\.tiff: not a TIFF"):
        read_heatmap(text)
    tifffile.imwrite(plain, np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match=r"b\.tiff: not an OME-TIFF"):
        read_heatmap(plain)
    tifffile.imwrite(other, np.zeros((4, 4), np.uint8), ome=True)
    with pytest.raises(ValueError, match=r"c\.tiff: not a heatmap"):
        read_heatmap(other)
    with pytest.raises(FileNotFoundError):
        read_heatmap(Path(tmp_path / "none.ome.tiff"))


def test_a_damaged_tile_is_a_clear_error(tmp_path):
    values = np.random.default_rng(0).random((1, 300, 300)).astype(np.float32)
    heatmap = Heatmap(
        channels=("probability",),
        data=values,
        weight=np.ones((300, 300), np.float32),
        mpp_x=8.0,
        mpp_y=8.0,
    )
    path = tmp_path / "s.ome.tiff"
    write_heatmap(path, heatmap, name="s")
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(bytes(4000))
    with pytest.raises(ValueError, match=r"s.ome.tiff: damaged: .*run again"):
        read_heatmap(path)
