import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from digipath_ray.figures.comparison import (
    distinct_names,
    draw_comparison,
    write_comparison_figures,
)
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.compare import (
    COMPARISON,
    box_weights,
    compare_heatmaps,
    compare_runs,
    mask_dice,
    on_one_grid,
    resample,
)
from digipath_ray.schema import FAILURES, OUTCOMES
from digipath_ray.words import TIMES


def heatmap(data, channels=("probability",), *, mpp=4.0, weight=None):
    data = np.asarray(data, np.float32)
    if weight is None:
        weight = np.ones(data.shape[1:])
    return Heatmap(
        channels=channels,
        data=data,
        weight=np.asarray(weight, np.float32),
        mpp_x=mpp,
        mpp_y=mpp,
    )


def outcome(slide_id, tumor_mm2):
    return {
        "slide_id": slide_id,
        "tumor_mm2": tumor_mm2,
        "tissue_mm2": 1.0,
        "probability_max": 1.0,
        "upsampled": False,
        "qc": [],
        "patches": 1,
        "seconds": 1.0,
    }


def finished_run(path, heatmaps, *, failed=()):
    """A run directory with these heatmaps by slide and these slides failed."""
    (path / "heatmaps").mkdir(parents=True)
    for slide_id, found in heatmaps.items():
        write_heatmap(path / "heatmaps" / f"{slide_id}.ome.tiff", found, name=slide_id)
    rows = [outcome(s, found.area_mm2(0.5)) for s, found in heatmaps.items()]
    table = pa.Table.from_pylist(rows, schema=OUTCOMES)
    pq.write_table(table, path / "outcomes.parquet")
    failures = [
        {
            "slide_id": s,
            "path": s,
            "step": "read",
            "attempt": 3,
            "error": "",
            "hint": "",
        }
        for s in failed
    ]
    table = pa.Table.from_pylist(failures, schema=FAILURES)
    pq.write_table(table, path / "failures.parquet")
    return path


def test_two_runs_slide_by_slide(tmp_path):
    channels = ("probability", "aleatoric")
    left = heatmap([[[0.0, 0.4, 0.6, 1.0]], [[0.1] * 4]], channels)
    right = heatmap([[[0.0, 0.6, 0.6, 0.75]], [[0.1] * 4]], channels)
    a = finished_run(tmp_path / "a", {"s1": left, "s2": left}, failed=["s4"])
    b = finished_run(tmp_path / "b", {"s1": right, "s3": left}, failed=["s2"])
    table = compare_runs(a, b)
    assert table.schema.equals(COMPARISON, check_metadata=True)
    rows = table.to_pylist()
    assert [(r["slide_id"], r["channel"], r["note"]) for r in rows] == [
        ("s1", "probability", ""),
        ("s1", "aleatoric", ""),
        ("s2", None, "not in B: failed there at step read"),
        ("s3", None, "not in A"),
        ("s4", None, "not in A: failed there at step read; not in B"),
    ]
    first = rows[0]
    assert first["max_abs_difference"] == pytest.approx(0.25, abs=1e-6)
    assert first["mean_abs_difference"] == pytest.approx((0.2 + 0.25) / 4, abs=1e-6)
    # At 0.5: A has 2 px, B has 3, of which 2 in common.
    assert first["dice"] == pytest.approx(4 / 5)
    correlation = np.corrcoef([0, 0.4, 0.6, 1], [0, 0.6, 0.6, 0.75])[0, 1]
    assert first["correlation"] == pytest.approx(correlation, abs=1e-6)
    assert first["pixels"] == 4
    assert first["tumor_mm2_a"] == pytest.approx(2 * 16e-6)
    assert first["tumor_mm2_b"] == pytest.approx(3 * 16e-6)
    # A variance has no Dice, a constant map no correlation.
    assert (rows[1]["dice"], rows[1]["correlation"]) == (None, None)
    assert rows[1]["max_abs_difference"] == 0
    assert rows[2]["tumor_mm2_a"] == pytest.approx(2 * 16e-6)
    assert rows[2]["tumor_mm2_b"] is None


def test_equal_runs_differ_nowhere(tmp_path):
    random = np.random.default_rng(0)
    same = heatmap(random.random((1, 20, 30)))
    a, b = (finished_run(tmp_path / n, {"s": same}) for n in "ab")
    row = compare_runs(a, b).to_pylist()[0]
    assert row["max_abs_difference"] == row["mean_abs_difference"] == 0
    assert row["dice"] == 1
    assert row["correlation"] == pytest.approx(1)


def test_a_channel_of_one_run_only_is_named(tmp_path):
    a = finished_run(tmp_path / "a", {"s": heatmap(np.zeros((1, 2, 2)))})
    both = heatmap(np.zeros((2, 2, 2)), ("probability", "epistemic"))
    b = finished_run(tmp_path / "b", {"s": both})
    rows = compare_runs(a, b).to_pylist()
    assert [(r["channel"], r["note"]) for r in rows] == [
        ("epistemic", "only in B"),
        ("probability", ""),
    ]


def test_a_lost_heatmap_is_a_note(tmp_path):
    zeros = heatmap(np.zeros((1, 2, 2)))
    a, b = (finished_run(tmp_path / n, {"s": zeros}) for n in "ab")
    (b / "heatmaps" / "s.ome.tiff").unlink()
    rows = compare_runs(a, b).to_pylist()
    assert [r["note"] for r in rows] == ["not in B: its heatmap is missing there"]


def test_an_unfinished_run_is_refused(tmp_path):
    run = finished_run(tmp_path / "a", {"s": heatmap(np.zeros((1, 2, 2)))})
    with pytest.raises(ValueError, match=r"b: not a finished run.*digipath run --out"):
        compare_runs(run, tmp_path / "b")
    empty = finished_run(tmp_path / "c", {}, failed=["s"])
    with pytest.raises(ValueError, match=r"c: holds no finished slide: .*segment"):
        compare_runs(run, empty)


def test_a_run_without_failures_needs_no_table_of_them(tmp_path):
    a = finished_run(tmp_path / "a", {"s": heatmap(np.zeros((1, 2, 2)))})
    (a / "failures.parquet").unlink()
    assert compare_runs(a, a).num_rows == 1


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("/x/one", "/x/two", ("one", "two")),
        ("/x/a/run", "/x/b/run", ("a/run", "b/run")),
        ("/x/a/out/run", "/x/b/out/run", ("a/out/run", "b/out/run")),
        ("/run", "/x/run", ("/run", "x/run")),
        ("/x/run", "/x/run", ("run", "run")),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(a, b, names):
    assert distinct_names(Path(a), Path(b)) == names


def test_numbers_below_the_strips_do_not_meet():
    same = heatmap(np.full((1, 100, 80), 0.5))
    figure = draw_comparison(same, same, title="s")
    figure.canvas.draw()
    strips = [axes for axes in figure.axes if axes.get_xlabel()]
    numbers = [n for strip in strips for n in strip.get_xticklabels()]
    assert [n.get_text() for n in numbers[-3:]] == ["-1e-06", "0", "1e-06"]
    boxes = [n.get_window_extent() for n in numbers]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_only_predicted_pixels_count():
    a = heatmap([[[0.0, 0.0, 0.5, 0.0]]], weight=[[0, 1, 1, 0]])
    b = heatmap([[[0.0, 0.0, 0.0, 0.5]]], weight=[[0, 1, 1, 1]])
    (row,) = compare_heatmaps(a, b, 0.5)
    assert row["pixels"] == 3
    assert row["mean_abs_difference"] == pytest.approx(1 / 3)
    assert row["dice"] == 0


def test_nothing_predicted_leaves_the_measures_empty():
    a = heatmap(np.zeros((1, 2, 2)), weight=np.zeros((2, 2)))
    (row,) = compare_heatmaps(a, a, 0.5)
    assert row["pixels"] == 0
    assert "max_abs_difference" not in row


def test_dice_of_two_empty_areas_is_one():
    none, some = np.zeros(3, bool), np.array([True, False, False])
    assert mask_dice(none, none) == 1
    assert mask_dice(none, some) == 0
    assert mask_dice(some, some) == 1


def test_scales_are_brought_to_the_coarser_one():
    fine = heatmap([[[0, 1, 2, 3], [4, 5, 6, 7]]], mpp=4.0)
    coarse = heatmap([[[2.5, 4.5]]], mpp=8.0)
    a, b, note = on_one_grid(fine, coarse)
    assert note == "resampled to 8 x 8 um/px"
    assert a.probability.tolist() == [[2.5, 4.5]]
    assert b.probability.tolist() == [[2.5, 4.5]]
    assert (a.mpp_x, a.mpp_y) == (8.0, 8.0)
    (row,) = compare_heatmaps(coarse, fine, 0.5)
    assert row["max_abs_difference"] == 0
    assert (row["mpp_x"], row["note"]) == (8.0, "resampled to 8 x 8 um/px")


def test_each_axis_takes_its_own_coarser_scale():
    a = Heatmap(
        channels=("probability",),
        data=np.array([[[1], [3]]], np.float32),
        weight=np.ones((2, 1), np.float32),
        mpp_x=8.0,
        mpp_y=4.0,
    )
    b = Heatmap(
        channels=("probability",),
        data=np.array([[[0, 4]]], np.float32),
        weight=np.ones((1, 2), np.float32),
        mpp_x=4.0,
        mpp_y=8.0,
    )
    left, right, _ = on_one_grid(a, b)
    assert left.probability.tolist() == right.probability.tolist() == [[2.0]]


def test_extents_that_differ_are_compared_where_both_are():
    a = heatmap([[[0.25, 0.5, 0.75]]])
    b = heatmap([[[0.25, 0.5]]])
    left, right, note = on_one_grid(a, b)
    assert note == "extents differ (12 x 4 um and 8 x 4 um): compared where both are"
    assert left.probability.tolist() == right.probability.tolist() == [[0.25, 0.5]]


def test_an_overhang_of_part_of_a_pixel_is_no_other_extent():
    # 5 px of 4 um against 3 px of 8 um: the same slide of about 20 um.
    fine = heatmap([[[0.5] * 5] * 5], mpp=4.0)
    coarse = heatmap([[[0.5] * 3] * 3], mpp=8.0)
    left, right, note = on_one_grid(fine, coarse)
    assert note == "resampled to 8 x 8 um/px"
    assert left.probability.tolist() == right.probability.tolist() == [[0.5] * 3] * 3


def test_box_weights_split_a_pixel_by_area():
    weights = box_weights(3, 2, 1.5).toarray()
    expected = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    # The last px reaches beyond: it is the mean of what there is.
    assert box_weights(3, 2, 2.0).toarray().tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert box_weights(3, 3, 1.0).toarray().tolist() == np.eye(3).tolist()


def test_resampling_keeps_the_mean_of_every_channel():
    random = np.random.default_rng(1)
    fine = heatmap(random.random((2, 12, 21)), ("probability", "epistemic"), mpp=2.0)
    coarse = resample(fine, width=6, height=4, mpp_x=7.0, mpp_y=6.0)
    assert coarse.data.shape == (2, 4, 6)
    np.testing.assert_allclose(
        coarse.data.mean(axis=(1, 2)), fine.data.mean(axis=(1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(coarse.weight, 1, rtol=1e-6)


def color_at(figure, panel, x_um, y_um):
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    x, y = figure.axes[panel].transData.transform((x_um, y_um))
    return image[image.shape[0] - 1 - int(y), int(x)]


def test_figure_shows_more_in_red_and_less_in_blue():
    a, b = np.full((1, 20, 20), 0.5), np.full((1, 20, 20), 0.5)
    a[0, :10, :10], b[0, 10:, 10:] = 1.0, 1.0
    figure = draw_comparison(heatmap(a), heatmap(b), title="s", notes=["a note"])
    # Panels and their color strips alternate: the difference is the fifth.
    less, more, same = (
        color_at(figure, 4, x, y) for x, y in ((20, 20), (60, 60), (60, 20))
    )
    assert less[2] > less[0] + 60
    assert more[0] > more[2] + 60
    assert same.max() - same.min() < 10
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["A", "", "B", "", "Difference", ""]
    said = [text.get_text() for text in figure.texts]
    largest = f"largest probability difference 0.5  ·  80 µm {TIMES} 80 µm"
    assert said == ["s", largest, "a note"]


def test_figure_of_other_scales_says_what_was_done():
    a, b = heatmap(np.zeros((1, 4, 4)), mpp=4.0), heatmap(np.zeros((1, 2, 2)), mpp=8.0)
    figure = draw_comparison(a, b, title="s")
    said = [text.get_text() for text in figure.texts]
    assert said[-1] == "resampled to 8 x 8 um/px"


def test_a_figure_per_slide_of_both_runs(tmp_path):
    found = heatmap(np.full((1, 8, 8), 0.7))
    a = finished_run(tmp_path / "a", {"s1": found, "s2": found, "s3": found})
    b = finished_run(tmp_path / "b", {"s1": found, "s2": found, "s4": found})
    (b / "heatmaps" / "s2.ome.tiff").unlink()
    written = write_comparison_figures(a, b, tmp_path / "out")
    assert written == [tmp_path / "out" / "s1.png"]
    with Image.open(written[0]) as image:
        assert image.format == "PNG"
        assert image.width > image.height
