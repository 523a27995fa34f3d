"""Figure of the forests' feature importances."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from digipath_ray.figures.figure import DPI, INK, QUIET, write_figure
from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.metastasis.forests import Forests
from digipath_ray.storage.files import publish
from digipath_ray.words import DOT

BAR = "#1f6fb4"
LINE = "#c9cdd3"
GRID = "#eceef1"
SIZE_IN = (7.4, 8.2)
"""Width and height of the figure, inches."""
BOX = (0.32, 0.075, 0.63, 0.81)
"""Left, bottom, width and height of the bars, as fractions of the figure."""


def write_importances(path: Path, forests: Forests, *, title: str) -> None:
    """Write :func:`draw_importances`'s figure as a PNG."""
    figure = draw_importances(forests, title=title)
    with publish(path) as temporary:
        write_figure(temporary, figure)


def draw_importances(forests: Forests, *, title: str) -> Figure:
    """Draw a bar per feature, most important on top, with the range of the forests."""
    importance = forests.importance
    mean = importance.mean(axis=0)
    order = np.argsort(mean, kind="stable")
    figure = Figure(figsize=SIZE_IN, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write_head(figure, title)
    axes = figure.add_axes(BOX)
    rows = np.arange(len(order))
    low, high = importance.min(axis=0)[order], importance.max(axis=0)[order]
    axes.barh(rows, mean[order], height=0.72, color=BAR)
    axes.hlines(rows, low, high, color=INK, linewidth=1)
    axes.set_yticks(rows, [FEATURES[i] for i in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(0, max(float(high.max()) * 1.05, 1e-6))
    axes.set_xlabel("mean decrease in impurity", size=10, color=QUIET)
    _finish(axes)
    return figure


def _write_head(figure: Figure, title: str) -> None:
    """Write the title and the subtitle."""
    subtitle = f"importance of the features{DOT}mean and range of the four forests"
    height = SIZE_IN[1]
    for text, down, points, weight, color in (
        (title, 0.2, 15, "bold", INK),
        (subtitle, 0.51, 10, "normal", QUIET),
    ):
        figure.text(
            0.3 / SIZE_IN[0],
            1 - down / height,
            text,
            size=points,
            weight=weight,
            color=color,
            va="top",
        )


def _finish(axes: Axes) -> None:
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=QUIET, length=2.5)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set(color=LINE, linewidth=0.8)
