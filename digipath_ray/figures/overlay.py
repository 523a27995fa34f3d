"""Figure of a slide: heatmap and uncertainty maps over a thumbnail.

For inspection, not measurement: the values are in the heatmap file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from digipath_ray.artifacts.kinds import Indexes
from digipath_ray.figures.figure import (
    FADED,
    INK,
    QUIET,
    Layout,
    Pixels,
    add_panel,
    add_strip,
    draw_scale_bar,
    open_figure,
    probability_colors,
    show_artifacts,
    show_map,
    show_outline,
    show_thumbnail,
    variance_colors,
    write_figure,
)
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.words import AT_LEAST, DOT, TIMES, format_area


def draw_overlay(
    thumbnail: Pixels,
    heatmap: Heatmap,
    *,
    thumbnail_mpp: tuple[float, float],
    title: str,
    notes: Sequence[str],
    threshold: float,
    artifacts: Indexes | None = None,
) -> Figure:
    """Draw thumbnail, probability and both uncertainties side by side.

    The panel of a map that was not estimated states the reason.

    Args:
        thumbnail: the whole slide, uint8 RGB [height, width, 3].
        heatmap: heatmap with the same top-left corner.
        thumbnail_mpp: um per thumbnail px, x and y.
        title: name of the slide.
        notes: notes at the bottom, e.g. "research use only".
        threshold: probability of the outline and of the stated area.
        artifacts: uint8 [height, width], their kinds at the heatmap's pixels.

    Raises:
        ValueError: the thumbnail is not an RGB image.
    """
    _check_rgb(thumbnail)
    width_um = thumbnail.shape[1] * thumbnail_mpp[0]
    height_um = thumbnail.shape[0] * thumbnail_mpp[1]
    figure, layout = open_figure(
        4,
        width_um=width_um,
        height_um=height_um,
        title=title,
        subtitle=_format_tumor(heatmap, threshold),
        notes=notes,
    )
    names = (
        "H&E",
        "Tumor probability",
        "Aleatoric uncertainty",
        "Epistemic uncertainty",
    )
    panels = [
        add_panel(figure, layout, i, title=n, width_um=width_um, height_um=height_um)
        for i, n in enumerate(names)
    ]
    show_thumbnail(panels[0], thumbnail, thumbnail_mpp)
    draw_scale_bar(figure, panels[0], width_um=width_um, height_um=height_um)
    if artifacts is not None and artifacts.any():
        show_artifacts(figure, panels[0], artifacts, (heatmap.mpp_x, heatmap.mpp_y))
    show_thumbnail(panels[1], thumbnail, thumbnail_mpp)
    _draw_probability(figure, layout, panels[1], heatmap, threshold)
    for i, plane, why_not in (
        (2, heatmap.aleatoric, "one transform only"),
        (3, heatmap.epistemic, "one member only"),
    ):
        if plane is not None and not (heatmap.covered & ~np.isnan(plane)).any():
            plane, why_not = None, "seen by one member only"
        if plane is None:
            _write_missing(panels[i], f"not estimated:\n{why_not}")
        else:
            show_thumbnail(panels[i], thumbnail, thumbnail_mpp, fade=FADED)
            _draw_variance(figure, layout, i, panels[i], plane, heatmap)
    return figure


def _check_rgb(thumbnail: Pixels) -> None:
    if thumbnail.dtype != np.uint8 or thumbnail.ndim != 3 or thumbnail.shape[2] != 3:
        raise ValueError(
            f"thumbnail: {thumbnail.dtype} {thumbnail.shape}, not uint8 [h, w, 3]"
        )


def _format_tumor(heatmap: Heatmap, threshold: float) -> str:
    area = format_area(heatmap.area_mm2(threshold))
    px = f"{heatmap.mpp_x:.3g} {TIMES} {heatmap.mpp_y:.3g}"
    what = f"with probability {AT_LEAST} {threshold:.3g}"
    if heatmap.is_refined(threshold):
        what = f"inside the outline refined from probability {threshold:.3g}"
    return f"{area} {what}{DOT}heatmap of {px} \N{MICRO SIGN}m/px"


def _draw_probability(
    figure: Figure, layout: Layout, axes: Axes, heatmap: Heatmap, threshold: float
) -> None:
    cmap, norm = probability_colors(), Normalize(0, 1)
    show_map(axes, heatmap.probability, heatmap, cmap=cmap, norm=norm)
    show_outline(axes, heatmap, threshold)
    begun = "refined from" if heatmap.is_refined(threshold) else AT_LEAST
    label = f"probability (outline: {begun} {threshold:.3g})"
    strip = add_strip(figure, layout, 1, cmap=cmap, norm=norm, label=label)
    strip.axvline(threshold, color=INK, linewidth=1.2)


def _draw_variance(
    figure: Figure, layout: Layout, i: int, axes: Axes, plane: Map, heatmap: Heatmap
) -> None:
    # An all-zero map still needs an increasing scale.
    norm = Normalize(0, max(float(np.nanmax(plane)), 1e-6))
    cmap = variance_colors()
    show_map(axes, plane, heatmap, cmap=cmap, norm=norm)
    add_strip(figure, layout, i, cmap=cmap, norm=norm, label="variance")


def _write_missing(axes: Axes, text: str) -> None:
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        size=10.5,
        color=QUIET,
        linespacing=1.5,
        ha="center",
        va="center",
    )


def write_overlay(
    path: Path,
    thumbnail: Pixels,
    heatmap: Heatmap,
    *,
    thumbnail_mpp: tuple[float, float],
    title: str,
    notes: Sequence[str],
    threshold: float,
    artifacts: Indexes | None = None,
) -> None:
    """Write :func:`draw_overlay`'s figure as a PNG."""
    figure = draw_overlay(
        thumbnail,
        heatmap,
        thumbnail_mpp=thumbnail_mpp,
        title=title,
        notes=notes,
        threshold=threshold,
        artifacts=artifacts,
    )
    write_figure(path, figure)
