import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from digipath_ray.figures.figure import lay_out, round_length, shown
from digipath_ray.figures.overlay import draw_overlay, write_overlay
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.words import TIMES, format_area, format_length, shorten

GRAY = 200


def heatmap_with(probability, *, aleatoric=None, epistemic=None, weight=None, mpp=16.0):
    maps = {"probability": probability, "aleatoric": aleatoric, "epistemic": epistemic}
    there = {k: np.asarray(v, np.float32) for k, v in maps.items() if v is not None}
    return Heatmap(
        channels=tuple(there),
        data=np.stack(list(there.values())),
        weight=np.ones_like(there["probability"]) if weight is None else weight,
        mpp_x=mpp,
        mpp_y=mpp,
    )


def hot_spot(rows=40, cols=40):
    """Probability 0.95 in the second quarter from the left of the top half, else 0."""
    probability = np.zeros((rows, cols), np.float32)
    probability[rows // 8 : 3 * rows // 8, cols // 8 : 3 * cols // 8] = 0.95
    return probability


def draw(heatmap, *, thumbnail=None, mpp=(8.0, 8.0), notes=(), title="slide_1"):
    """A figure; the thumbnail has by default 80 x 80 px of 8 um."""
    if thumbnail is None:
        thumbnail = np.full((80, 80, 3), GRAY, np.uint8)
    return draw_overlay(
        thumbnail, heatmap, thumbnail_mpp=mpp, title=title, notes=notes, threshold=0.5
    )


def pixels_of(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def colors_at(figure, panel, places_um):
    """RGB of the drawn picture at places (x, y) of a panel's slide."""
    image = pixels_of(figure)
    places = figure.axes[panel].transData.transform(places_um).astype(int)
    return [image[image.shape[0] - 1 - y, x] for x, y in places]


def color_at(figure, panel, x_um, y_um):
    return colors_at(figure, panel, [(x_um, y_um)])[0]


def words(figure):
    texts = [t.get_text() for t in figure.texts]
    for axes in figure.axes:
        texts += [t.get_text() for t in axes.texts]
        texts += [axes.get_title(loc="left"), axes.get_xlabel()]
    return texts


def saturation(rgb):
    return int(rgb.max()) - int(rgb.min())


def test_hot_spot_is_red_and_the_rest_is_the_thumbnail():
    figure = draw(heatmap_with(hot_spot()))
    # The spot reaches from 80 to 240 um on both axes of the 640 um slide.
    red, green, blue = color_at(figure, 1, 160, 160)
    assert red > green + 60
    assert red > blue + 60
    for x, y in ((60, 160), (260, 160), (160, 60), (160, 260), (560, 560)):
        assert color_at(figure, 1, x, y).tolist() == [GRAY] * 3
    assert color_at(figure, 0, 160, 160).tolist() == [GRAY] * 3


def test_places_come_from_micrometers_not_from_pixels():
    # A thumbnail of 16 x 32 um px whose heatmap has 4 um px: the same 640 x 640 um.
    thumbnail = np.full((20, 40, 3), GRAY, np.uint8)
    heatmap = heatmap_with(hot_spot(160, 160), mpp=4.0)
    figure = draw(heatmap, thumbnail=thumbnail, mpp=(16.0, 32.0))
    assert saturation(color_at(figure, 1, 90, 230)) > 60
    assert saturation(color_at(figure, 1, 230, 90)) > 60
    assert saturation(color_at(figure, 1, 70, 160)) == 0
    assert saturation(color_at(figure, 1, 160, 250)) == 0


def test_a_heatmap_that_overhangs_the_slide_moves_nothing():
    # 41 px of 16 um overhang the slide's 640 um by one.
    probability = np.zeros((41, 41), np.float32)
    probability[:40, :40] = hot_spot()
    figure = draw(heatmap_with(probability))
    assert figure.axes[1].get_xlim() == (0, 640)
    assert figure.axes[1].get_ylim() == (640, 0)
    assert saturation(color_at(figure, 1, 90, 90)) > 60
    assert saturation(color_at(figure, 1, 70, 70)) == 0


def test_low_probabilities_and_unpredicted_pixels_leave_the_tissue_uncovered():
    probability = np.full((40, 40), 0.05, np.float32)
    probability[:20] = 0.95
    weight = np.ones((40, 40), np.float32)
    weight[:, :20] = 0
    figure = draw(heatmap_with(probability, weight=weight))
    assert saturation(color_at(figure, 1, 480, 160)) > 60
    assert saturation(color_at(figure, 1, 480, 480)) == 0
    assert saturation(color_at(figure, 1, 160, 160)) == 0


def test_uncertainty_is_bright_where_it_is_high_and_dark_where_it_is_low():
    aleatoric = hot_spot() * 0.05
    figure = draw(heatmap_with(hot_spot(), aleatoric=aleatoric))
    assert color_at(figure, 2, 160, 160).min() > 150
    assert color_at(figure, 2, 480, 480).max() < 80


def test_threshold_is_outlined():
    figure = draw(heatmap_with(hot_spot()))
    # From 0 at the px center of 72 um to 0.95 at 88 um, 0.5 is crossed at 80.4 um.
    across = colors_at(figure, 1, [(x, 160) for x in np.arange(76, 84, 0.5)])
    assert min(color.sum() for color in across) < 250
    inside = colors_at(figure, 1, [(x, 160) for x in np.arange(90, 230, 2)])
    assert min(color.sum() for color in inside) > 250


def test_title_notes_scale_and_panels_are_named():
    figure = draw(
        heatmap_with(hot_spot(), aleatoric=hot_spot() / 20, epistemic=hot_spot() / 10),
        notes=("random weights: not a prediction", "research use only"),
        title="patient_017_node_2",
    )
    said = words(figure)
    assert "patient_017_node_2" in said
    assert "random weights: not a prediction  ·  research use only" in said
    # 10 x 10 px of 16 x 16 um.
    found = f"0.0256 mm² with probability ≥ 0.5  ·  heatmap of 16 {TIMES} 16 µm/px"
    assert found in said
    for name in (
        "H&E",
        "Tumor probability",
        "Aleatoric uncertainty",
        "Epistemic uncertainty",
        "  100 µm",
        f"640 µm {TIMES} 640 µm",
        "probability (outline: ≥ 0.5)",
    ):
        assert name in said
    assert said.count("variance") == 2
    assert not any("not estimated" in text for text in said)


def test_scale_bar_is_as_long_as_it_says():
    figure = draw(heatmap_with(hot_spot()))
    bar = figure.axes[0].lines[0]
    assert list(bar.get_xdata()) == [0, 100]


def test_what_was_not_estimated_is_said_in_words():
    figure = draw(heatmap_with(hot_spot()))
    said = words(figure)
    assert "not estimated:\none transform only" in said
    assert "not estimated:\none member only" in said
    assert "variance" not in said
    only = words(draw(heatmap_with(hot_spot(), epistemic=hot_spot() / 10)))
    assert "not estimated:\none transform only" in only
    assert "not estimated:\none member only" not in only


def test_each_variance_has_its_own_scale():
    figure = draw(
        heatmap_with(hot_spot(), aleatoric=hot_spot() / 95, epistemic=hot_spot() / 19)
    )
    scales = [a.get_xlim()[1] for a in figure.axes if a.get_xlabel() == "variance"]
    assert scales == pytest.approx([0.01, 0.05], rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "cols"), [(1, 1), (1, 60), (60, 1), (40, 8), (8, 40), (3000, 30)]
)
def test_slides_of_any_shape_are_drawn_at_a_reasonable_size(tmp_path, rows, cols):
    probability = np.full((rows, cols), 0.9, np.float32)
    path = tmp_path / "overlay.tmp"
    write_overlay(
        path,
        np.full((rows, cols, 3), GRAY, np.uint8),
        heatmap_with(probability, aleatoric=np.zeros_like(probability)),
        thumbnail_mpp=(16.0, 16.0),
        title="s" * 300,
        notes=["a note that is long enough to be wrapped"] * 8,
        threshold=0.5,
    )
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 500 < image.width < 2600
        assert 500 < image.height < 2600


def test_nothing_is_written_beyond_the_figure():
    figure = draw(
        heatmap_with(hot_spot(), epistemic=hot_spot() / 10),
        title="slide_" * 30,
        notes=["a note that is long enough to be wrapped"] * 8,
    )
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= width, text
            assert box.y1 <= height, text


def test_a_noisy_thumbnail_stays_below_two_megabytes(tmp_path):
    random = np.random.default_rng(0)
    thumbnail = random.integers(0, 255, (1500, 1500, 3), np.uint8)
    noise = random.random((94, 94), np.float32)
    path = tmp_path / "o.png"
    write_overlay(
        path,
        thumbnail,
        heatmap_with(noise, aleatoric=noise / 4, epistemic=noise / 4),
        thumbnail_mpp=(1.0, 1.0),
        title="noise",
        notes=(),
        threshold=0.5,
    )
    assert path.stat().st_size < 2_000_000


def test_a_thumbnail_that_is_no_rgb_image_is_refused():
    with pytest.raises(ValueError, match=r"thumbnail: uint8 \(4, 4\)"):
        draw(heatmap_with(hot_spot()), thumbnail=np.zeros((4, 4), np.uint8))


def test_large_maps_are_drawn_from_means():
    plane = np.zeros((2, 2048), np.float32)
    plane[:, 1] = 1
    small, factor = shown(plane)
    assert (small.shape, factor) == ((1, 1024), 2)
    assert small[0, :3].tolist() == [0.5, 0, 0]


def test_scale_bar_lengths_are_round():
    lengths = [round_length(w) for w in (1.0, 640.0, 3300, 3400, 20_000, 75_000)]
    assert lengths == pytest.approx([0.2, 100, 500, 1000, 5000, 20_000])
    assert [format_length(v) for v in (0.2, 500, 1000, 20_000)] == [
        "0.2 µm", "500 µm", "1 mm", "20 mm",
    ]  # fmt: skip
    assert [format_area(v) for v in (0, 1.6e-5, 0.0256, 12.34)] == [
        "0 mm²", "16 µm²", "0.0256 mm²", "12.3 mm²",
    ]  # fmt: skip


def test_long_names_lose_their_middle():
    assert shorten("patient_017_node_2", 18) == "patient_017_node_2"
    assert shorten("patient_017_node_2", 9) == "pati…de_2"


def test_wide_slides_stand_below_each_other():
    row, square, column = (
        lay_out(4, width_um=w, height_um=1000) for w in (1000, 4000, 8000)
    )
    assert (row.columns, row.rows) == (4, 1)
    assert (square.columns, square.rows) == (2, 2)
    assert (column.columns, column.rows) == (1, 4)
    # Panels lie apart: the second row's top is below the first row's caption.
    assert square.box(2)[1] + square.box(2)[3] < square.box(0)[1]
    assert square.box(1)[0] > square.box(0)[0] + square.box(0)[2]
