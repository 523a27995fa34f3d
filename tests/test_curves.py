import csv

import numpy as np
import pytest
from PIL import Image

from digipath_ray.training.calibration import Histogram, measure_reliability
from digipath_ray.training.curves import (
    FROZEN,
    draw_curves,
    draw_reliability,
    write_curves,
    write_reliability,
)


def epochs(n=6):
    """Epochs whose losses halve and whose Dice rises by 0.1."""
    return [
        {
            "epoch": e,
            "learning_rate": 1e-5 if e < 2 else 2e-4,
            "train_loss": 0.8 / 2**e,
            "validation_loss": 0.9 / 2**e,
            "validation_dice": 0.1 * e,
            "validation_jaccard": 0.08 * e,
            "seconds": 12.5,
        }
        for e in range(n)
    ]


def lines(axes):
    """Label -> y values of what was measured."""
    return {
        line.get_label(): np.asarray(line.get_ydata(), float)
        for line in axes.lines
        if line.get_marker() == "o"
    }


def said(figure):
    return [text.get_text() for text in figure.texts]


def test_curves_show_what_was_measured():
    figure = draw_curves(epochs(), title="unet_densenet121")
    losses, scores, rates = figure.axes
    assert lines(losses)["training"].tolist() == [0.8 / 2**e for e in range(6)]
    assert lines(losses)["validation"][3] == 0.9 / 8
    assert set(lines(scores)) == {"Dice", "Jaccard"}
    assert lines(rates)["learning rate"].tolist() == [1e-5] * 2 + [2e-4] * 4
    scales = [axes.get_yscale() for axes in (losses, scores, rates)]
    assert scales == ["log", "linear", "log"]
    assert said(figure) == ["unet_densenet121", "6 epochs"]


def test_kept_and_frozen_epochs_are_marked():
    figure = draw_curves(epochs(), title="m", kept_epoch=4, frozen_epochs=2)
    for axes in figure.axes:
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_xdata()) for line in dashed] == [[4, 4]]
        (span,) = axes.patches
        assert (span.get_x(), span.get_width()) == (-0.5, 2)
    what = said(figure)[1]
    assert "encoder frozen in the first 2 (blue)" in what
    assert "kept: epoch 4 (dashed)" in what
    assert "validation loss 0.056" in what
    assert "Dice 0.400" in what


def test_the_blue_ground_is_seen():
    figure = draw_curves(epochs(), title="m", frozen_epochs=2)
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())
    x, y = figure.axes[1].transData.transform((0.3, 0.93)).astype(int)
    color = "#" + "".join(f"{c:02x}" for c in image[image.shape[0] - 1 - y, x, :3])
    assert color == FROZEN


def test_gaps_and_missing_columns_do_not_stop_the_drawing(tmp_path):
    rows = epochs(3)
    rows[1] |= {"train_loss": float("nan"), "validation_dice": None}
    rows[2]["train_loss"] = float("inf")
    figure = draw_curves(rows, title="m")
    gaps = np.isnan(lines(figure.axes[0])["training"])
    assert gaps.tolist() == [False, True, True]
    assert np.isnan(lines(figure.axes[1])["Dice"][1])
    bare = [{"epoch": 0, "train_loss": 0.0}]  # no logarithm to draw
    assert draw_curves(bare, title="m").axes[0].get_yscale() == "linear"
    write_curves(bare, tmp_path / "c.csv", tmp_path / "c.png", title="m", kept_epoch=0)
    assert (tmp_path / "c.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="m: no finished epoch"):
        draw_curves([], title="m")


def test_files_hold_every_epoch(tmp_path):
    rows = epochs()
    rows[5]["note"] = "stopped, validation loss rises"
    write_curves(rows, tmp_path / "c.csv", tmp_path / "c.png", title="m")
    with (tmp_path / "c.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == [*epochs()[0], "note"]
    assert [float(row["train_loss"]) for row in read] == [r["train_loss"] for r in rows]
    assert [row["note"] for row in read] == [""] * 5 + [rows[5]["note"]]
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"
        assert image.width > 2 * image.height
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.csv", "c.png"]


def test_reliability_shows_frequency_against_confidence(tmp_path):
    histogram = Histogram()
    histogram.add([0.05, 0.85, 0.85, 0.85], [0, 1, 0, 0], 1.0)
    curve = measure_reliability(histogram)
    figure = draw_reliability(curve, title="m")
    curves, pixels = figure.axes
    (measured,) = (line for line in curves.lines if line.get_marker() == "o")
    assert measured.get_xdata() == pytest.approx([0.0505, 0.8505])
    assert measured.get_ydata() == pytest.approx([0, 1 / 3])
    heights = [bar.get_height() for bar in pixels.patches]
    assert heights == pytest.approx([0.25] + [0] * 11 + [0.75] + [0] * 2)
    # (1 * 0.0505 + 3 * (0.8505 - 1/3)) / 4
    assert "ECE 0.400" in said(figure)[1]
    write_reliability(tmp_path / "r.png", curve, title="m")
    empty = measure_reliability(Histogram())
    assert "no pixel" in said(draw_reliability(empty, title="m"))[1]
    assert [p.name for p in tmp_path.iterdir()] == ["r.png"]
