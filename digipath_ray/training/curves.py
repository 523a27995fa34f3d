"""Figures of a fit: learning curves and reliability.

The plotted numbers are in the CSV and in the member's card.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from digipath_ray.figures.figure import DPI, INK, QUIET, write_figure
from digipath_ray.storage.files import publish
from digipath_ray.training.calibration import Reliability
from digipath_ray.training.class_dice import COLUMN, class_columns
from digipath_ray.words import DOT, shorten

Value = float | int | str | None
Row = Mapping[str, Value]
"""Measures of an epoch by name; always contains "epoch" (from 0)."""

LINE = "#c9cdd3"
GRID = "#eceef1"
FROZEN = "#e6effa"
COLORS = "#1f6fb4", "#d4661b"
CLASS_COLORS = "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933"
BLUE = COLORS[0]
LOSSES = {"train_loss": "training", "validation_loss": "validation"}
SCORES = {"validation_dice": "Dice", "validation_jaccard": "Jaccard"}
RATES = {"learning_rate": "learning rate"}
"""Columns plotted together, with their labels."""
PANEL_IN = (4.1, 2.75)
"""Width and height of a panel, inches."""


def write_curves(
    rows: Sequence[Row],
    csv_path: Path,
    png_path: Path,
    *,
    title: str,
    kept_epoch: int | None = None,
    frozen_epochs: int = 0,
) -> None:
    """Write the epochs of a fit as a table and a figure.

    Args:
        rows: one per epoch.
        csv_path: path of the table; columns in order of first appearance.
        png_path: path of the figure of :func:`draw_curves`.
        title: name of the member.
        kept_epoch: the epoch whose weights are kept.
        frozen_epochs: number of initial epochs with a frozen encoder.
    """
    with publish(csv_path) as temporary:
        write_rows(rows, temporary)
    figure = draw_curves(
        rows, title=title, kept_epoch=kept_epoch, frozen_epochs=frozen_epochs
    )
    with publish(png_path) as temporary:
        write_figure(temporary, figure)


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write a CSV; missing values are empty cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_curves(
    rows: Sequence[Row],
    *,
    title: str,
    kept_epoch: int | None = None,
    frozen_epochs: int = 0,
) -> Figure:
    """Draw losses, validation scores and learning rate over the epochs.

    A dashed line marks the kept epoch, a blue background the frozen epochs. Missing or
    non-finite values are gaps.

    Raises:
        ValueError: there are no epochs.
    """
    if not rows:
        raise ValueError(f"{title}: no finished epoch, so there are no curves to draw")
    epochs = values_of(rows, "epoch")
    figure, (losses, scores, rates) = _open_panels(
        3, title=title, subtitle=_describe(rows, kept_epoch, frozen_epochs)
    )
    for axes in (losses, scores, rates):
        _mark_epochs(axes, epochs, kept_epoch=kept_epoch, frozen_epochs=frozen_epochs)
    _plot(losses, rows, LOSSES, log=True)
    _plot(scores, rows, SCORES)
    names = {f"{COLUMN}{name}": name for name in class_columns(rows[-1])}
    _plot(scores, rows, names, colors=CLASS_COLORS, thin=True)
    _plot(rates, rows, RATES, log=True)
    _finish(losses, "Loss")
    _finish(scores, "Validation, pooled pixels")
    _finish(rates, "Learning rate")
    scores.set_ylim(0, 1)
    return figure


def values_of(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A column; NaN where missing or not finite."""
    values = [row.get(name) for row in rows]
    finite = [v if isinstance(v, int | float) else math.nan for v in values]
    column = np.array(finite, np.float64)
    column[~np.isfinite(column)] = np.nan
    return column


def _describe(rows: Sequence[Row], kept_epoch: int | None, frozen_epochs: int) -> str:
    parts = [f"{len(rows)} epoch{'s' if len(rows) > 1 else ''}"]
    if frozen_epochs > 0:
        parts.append(f"encoder frozen in the first {frozen_epochs} (blue)")
    if kept_epoch is not None:
        parts.append(f"kept: epoch {kept_epoch} (dashed)")
        parts += _format_validation(rows, kept_epoch)
    return DOT.join(parts)


def _format_validation(rows: Sequence[Row], epoch: int) -> list[str]:
    """Format the validation results of an epoch."""
    row = next((row for row in rows if row["epoch"] == epoch), {})
    names = {"validation_loss": "validation loss", **SCORES}
    values = {label: row.get(name) for name, label in names.items()}
    return [f"{k} {v:.3f}" for k, v in values.items() if isinstance(v, float)]


def _open_panels(
    panels: int, *, title: str, subtitle: str
) -> tuple[Figure, tuple[Axes, ...]]:
    """Create a figure with title, subtitle and a row of empty panels."""
    width, height = PANEL_IN
    left, right, top, bottom, gap = 0.72, 0.25, 1.15, 0.6, 0.75
    size = (
        left + panels * width + (panels - 1) * gap + right,
        top + height + bottom,
    )
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for text, down, points, weight, color in (
        (title, 0.2, 15, "bold", INK),
        (subtitle, 0.51, 10, "normal", QUIET),
    ):
        figure.text(
            0.3 / size[0],
            1 - down / size[1],
            # 10 pt text has about 13 characters per inch.
            shorten(text, int((size[0] - 0.6) * 130 / points)),
            size=points,
            weight=weight,
            color=color,
            va="top",
        )
    boxes = [
        (
            (left + i * (width + gap)) / size[0],
            bottom / size[1],
            width / size[0],
            height / size[1],
        )
        for i in range(panels)
    ]
    return figure, tuple(figure.add_axes(box) for box in boxes)


def _mark_epochs(
    axes: Axes,
    epochs: NDArray[np.float64],
    *,
    kept_epoch: int | None,
    frozen_epochs: int,
) -> None:
    first, last = float(np.nanmin(epochs)), float(np.nanmax(epochs))
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.set_xlabel("epoch", size=10, color=QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    frozen = min(frozen_epochs, last + 1) - 0.5
    if frozen > first - 0.5:
        axes.axvspan(first - 0.5, frozen, color=FROZEN)
    if kept_epoch is not None:
        axes.axvline(kept_epoch, color=INK, linewidth=1, linestyle="--")


def _plot(
    axes: Axes,
    rows: Sequence[Row],
    labels: Mapping[str, str],
    *,
    log: bool = False,
    colors: Sequence[str] = COLORS,
    thin: bool = False,
) -> None:
    """Plot columns over the epochs; on a log axis if requested and possible."""
    epochs = values_of(rows, "epoch")
    columns = {label: values_of(rows, name) for name, label in labels.items()}
    if log and any((values > 0).any() for values in columns.values()):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    for (label, values), color in zip(columns.items(), cycle(colors), strict=False):
        if np.isfinite(values).any():
            axes.plot(
                epochs,
                values,
                color=color,
                linewidth=0.9 if thin else 1.6,
                marker="o",
                ms=1.5 if thin else 3,
                label=label,
            )


def _finish(axes: Axes, title: str) -> None:
    """Add title, grid and legend after all lines."""
    axes.set_title(title, loc="left", size=11.5, color=INK, pad=6)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=9, colors=QUIET, length=2.5)
    for spine in axes.spines.values():
        spine.set(color=LINE, linewidth=0.8)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        legend = axes.legend(handles, labels, fontsize=9, labelcolor=QUIET)
        legend.get_frame().set(edgecolor="none", alpha=0.85)


def write_reliability(path: Path, curve: Reliability, *, title: str) -> None:
    """Write :func:`draw_reliability`'s figure as a PNG."""
    figure = draw_reliability(curve, title=title)
    with publish(path) as temporary:
        write_figure(temporary, figure)


def draw_reliability(curve: Reliability, *, title: str) -> Figure:
    """Draw tumor frequency against predicted probability, and the pixel counts.

    On the diagonal probabilities are calibrated; below it the member overestimates
    tumor.
    """
    error = curve.error
    subtitle = "no pixels" if error is None else f"ECE {error:.3f}"
    figure, (curves, pixels) = _open_panels(
        2, title=title, subtitle=f"{subtitle}{DOT}reliability on validation patients"
    )
    curves.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="ideal")
    there = curve.counts > 0
    curves.plot(
        curve.confidence[there],
        curve.frequency[there],
        color=BLUE,
        linewidth=1.6,
        marker="o",
        ms=4,
        label="measured",
    )
    curves.set(xlim=(0, 1), ylim=(0, 1))
    share = curve.counts / max(curve.counts.sum(), 1e-12)
    pixels.bar(
        curve.edges[:-1], share, np.diff(curve.edges), align="edge", color=BLUE, ec="w"
    )
    pixels.set(xlim=(0, 1))
    for axes in (curves, pixels):
        axes.set_xlabel("tumor probability", size=10, color=QUIET)
    _finish(curves, "Fraction of tumor")
    _finish(pixels, "Fraction of pixels")
    return figure
