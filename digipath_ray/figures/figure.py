"""Building blocks of figures: layout in inches, maps in um, color bars, scale bars.

Everything is placed in um from the slide's top-left corner, so maps and thumbnails of
any scale align. Uses Matplotlib's objects directly: no pyplot, no global state.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform, blended_transform_factory, offset_copy
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.artifacts.kinds import KINDS, Indexes
from digipath_ray.heatmap.file import halve
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.words import DOT, TIMES, format_length, shorten

Pixels = NDArray[np.uint8]

DPI = 160
PANEL_IN = 2.65
"""Side of the panel of a square slide, inches."""
SHOWN_PX = 1024
"""Maximum side of a drawn map, px; panels have fewer pixels."""
VISIBLE_FROM = 0.1
"""Lower probabilities are transparent."""
ALPHA = 0.6
VARIANCE_ALPHA = 0.85
FADED = 0.7
"""Opacity of the thumbnail below the uncertainty maps."""
TICK_FORMAT = "%.3g"
TICK_CHARACTERS = 5
"""Maximum characters per tick label for five labels to fit a color bar."""
INK = "#1f2329"
QUIET = "#5f6672"
EMPTY = "#e8eaed"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Positions of panels on a figure, inches.

    Each panel has a heading above and a caption (color strip or scale bar) below.
    """

    columns: int
    rows: int
    panel_width: float
    panel_height: float
    footer: float
    margin: float = 0.3
    gap: float = 0.25
    header: float = 0.8
    heading: float = 0.27
    caption: float = 0.6

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure, inches."""
        width = self.columns * (self.panel_width + self.gap) - self.gap
        height = self.rows * (self.heading + self.panel_height + self.caption)
        return 2 * self.margin + width, self.header + height + self.footer

    def box(self, i: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of panel ``i``, as fractions of the figure."""
        row, col = divmod(i, self.columns)
        width, height = self.size
        left = self.margin + col * (self.panel_width + self.gap)
        top = self.header + row * (self.heading + self.panel_height + self.caption)
        bottom = height - top - self.heading - self.panel_height
        return (
            left / width,
            bottom / height,
            self.panel_width / width,
            self.panel_height / height,
        )


def lay_out(
    panels: int, *, width_um: float, height_um: float, footer: float = 0.3
) -> Layout:
    """Lay out panels of the slide's aspect ratio, with constant area.

    Aspect ratios beyond 8:1 use an 8:1 panel with a smaller drawing. Panels are in one
    row if it is at most about 14 inches wide.
    """
    aspect = min(max(width_um / height_um, 1 / 8), 8.0)
    width = max(2.4, PANEL_IN * math.sqrt(aspect))
    even = [n for n in range(panels, 0, -1) if panels % n == 0]
    columns = next((n for n in even if n * width <= 14), 1)
    return Layout(
        columns=columns,
        rows=panels // columns,
        panel_width=width,
        panel_height=PANEL_IN / math.sqrt(aspect),
        footer=footer,
    )


def open_figure(
    panels: int,
    *,
    width_um: float,
    height_um: float,
    title: str,
    subtitle: str,
    notes: Sequence[str],
) -> tuple[Figure, Layout]:
    """Create an empty figure with title, subtitle and notes at the bottom."""
    layout = lay_out(panels, width_um=width_um, height_um=height_um)
    inches = layout.size[0] - 2 * layout.margin
    # 10 pt text has about 13 characters per inch, the 15 pt title about 7.5.
    lines = textwrap.wrap(DOT.join(notes), max(20, int(inches * 13)))
    footer = 0.2 + 0.18 * len(lines)
    layout = lay_out(panels, width_um=width_um, height_um=height_um, footer=footer)
    width, height = layout.size
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = layout.margin / width
    figure.text(
        left,
        1 - 0.2 / height,
        shorten(title, int(inches * 7.5)),
        size=15,
        weight="bold",
        color=INK,
        va="top",
    )
    subtitle = shorten(subtitle, int(inches * 13))
    figure.text(left, 1 - 0.51 / height, subtitle, size=10, color=QUIET, va="top")
    figure.text(
        left,
        0.13 / height,
        "\n".join(lines),
        size=10,
        color=QUIET,
        style="italic",
        va="bottom",
    )
    return figure, layout


def add_panel(
    figure: Figure,
    layout: Layout,
    i: int,
    *,
    title: str,
    width_um: float,
    height_um: float,
) -> Axes:
    """Add axes for panel ``i`` in um, y down, without ticks."""
    axes = figure.add_axes(layout.box(i))
    axes.set(xlim=(0, width_um), ylim=(height_um, 0), aspect="equal")
    axes.set(xticks=[], yticks=[], facecolor=EMPTY, anchor="NW")
    for spine in axes.spines.values():
        spine.set(color="#c9cdd3", linewidth=0.8)
    # 11.5 pt text has about 9 characters per inch.
    title = shorten(title, int(layout.panel_width * 9))
    axes.set_title(title, loc="left", size=11.5, color=INK, pad=5)
    return axes


def show_thumbnail(
    axes: Axes, thumbnail: Pixels, mpp: tuple[float, float], *, fade: float = 1.0
) -> None:
    """Draw an RGB thumbnail of ``mpp`` um per px; ``fade`` < 1 mixes it with white."""
    factor = max(1, max(thumbnail.shape[:2]) // SHOWN_PX)
    image = np.asarray(Image.fromarray(thumbnail).reduce(factor))
    if fade < 1:
        image = (255 - fade * (255 - image.astype(np.float32))).astype(np.uint8)
    right, bottom = image.shape[1] * mpp[0] * factor, image.shape[0] * mpp[1] * factor
    axes.imshow(image, extent=(0, right, bottom, 0), aspect="equal", zorder=0)


def shown(plane: Map) -> tuple[Map, int]:
    """Halve a map until it is small enough to draw; also returns the reduction."""
    factor = 1
    while max(plane.shape) > SHOWN_PX:
        plane, factor = halve(plane), factor * 2
    return plane, factor


def show_map(
    axes: Axes, plane: Map, heatmap: Heatmap, *, cmap: Colormap, norm: Normalize
) -> None:
    """Draw a map on ``heatmap``'s grid; transparent where no patch is."""
    small, factor = shown(plane)
    weight, _ = shown(heatmap.weight)
    right = small.shape[1] * factor * heatmap.mpp_x
    bottom = small.shape[0] * factor * heatmap.mpp_y
    axes.imshow(
        np.ma.masked_where(weight <= 0, small),
        extent=(0, right, bottom, 0),
        aspect="equal",
        cmap=cmap,
        norm=norm,
        zorder=1,
    )


def show_outline(axes: Axes, heatmap: Heatmap, threshold: float) -> None:
    """Outline the area with a probability of at least ``threshold``."""
    level, values = threshold, heatmap.probability
    if heatmap.is_refined(threshold):
        level, values = 0.5, heatmap.above(threshold).astype(np.float32)
    small, factor = shown(values)
    if min(small.shape) < 2 or not small.min() < level < small.max():
        return  # contour needs both sides
    x = (np.arange(small.shape[1]) + 0.5) * factor * heatmap.mpp_x
    y = (np.arange(small.shape[0]) + 0.5) * factor * heatmap.mpp_y
    axes.contour(x, y, small, levels=[level], colors=INK, linewidths=0.7, zorder=2)


def show_artifacts(
    figure: Figure, axes: Axes, indexes: Indexes, mpp: tuple[float, float]
) -> None:
    """Outline artifacts in their colors, with a legend below the panel's scale bar.

    Args:
        figure: the figure.
        axes: a panel.
        indexes: uint8 [height, width], of their kinds, from the same corner.
        mpp: um per px, x and y.
    """
    shown_kinds = [kind for kind in KINDS if (indexes == kind.index).any()]
    for kind in shown_kinds:
        plane = (indexes == kind.index).astype(np.float32)
        small, factor = shown(plane)
        # One px of nothing around, so that outlines close at the edge.
        small = np.pad(small, 1)
        x, y = (
            (np.arange(side) - 0.5) * factor * um
            for side, um in zip(small.shape[::-1], mpp, strict=True)
        )
        color = [value / 255 for value in kind.color]
        axes.contour(x, y, small, levels=[0.5], colors=[color], linewidths=1.0)
    place = offset_copy(axes.transAxes, figure, x=0, y=-41, units="points")
    x_points = 0.0
    for kind in shown_kinds:
        axes.text(
            0,
            0,
            f"\N{BLACK SQUARE} {kind.name}",
            transform=offset_copy(place, figure, x=x_points, y=0, units="points"),
            size=8.5,
            color=[value / 255 for value in kind.color],
            va="center_baseline",
        )
        x_points += 14 + 5.0 * len(kind.name)


def add_strip(
    figure: Figure,
    layout: Layout,
    i: int,
    *,
    cmap: Colormap,
    norm: Normalize,
    label: str,
) -> Axes:
    """Add a color bar below panel ``i``."""
    left, bottom, width, _ = layout.box(i)
    inch = 1 / layout.size[1]
    ticks = strip_ticks(norm)
    strip = figure.add_axes((left, bottom - 0.2 * inch, width, 0.1 * inch))
    bar = figure.colorbar(
        ScalarMappable(norm=norm, cmap=cmap),
        cax=strip,
        orientation="horizontal",
        ticks=ticks,
        format=TICK_FORMAT,
        spacing="proportional",
    )
    bar.outline.set(edgecolor="#c9cdd3", linewidth=0.8)
    strip.tick_params(labelsize=9, colors=QUIET, length=2.5, pad=2)
    for tick, number in zip(ticks, strip.get_xticklabels(), strict=True):
        # Centered at an end, it would overlap the labels of the next panel.
        place = float(norm(tick))
        if min(place, 1 - place) < 1e-6:
            number.set_horizontalalignment("left" if place < 0.5 else "right")
    strip.set_xlabel(label, size=9.5, color=QUIET, labelpad=1)
    return strip


def strip_ticks(norm: Normalize) -> list[float]:
    """Round tick values within the norm's range, fewer if their labels are long."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    slack = 1e-9 * (high - low)
    ticks: list[float] = []
    for most in (4, 2):
        values = MaxNLocator(most).tick_values(low, high)
        ticks = [float(v) for v in values if low - slack <= v <= high + slack]
        if max(len(TICK_FORMAT % t) for t in ticks) <= TICK_CHARACTERS:
            break
    return ticks


def round_length(width_um: float) -> float:
    """Longest of 1, 2, 5, 10 ... um that is at most 0.3 of the width."""
    longest = 0.3 * width_um
    power = 10.0 ** math.floor(math.log10(longest))
    return max(m * power for m in (1, 2, 5) if m * power <= longest * (1 + 1e-9))


def draw_scale_bar(
    figure: Figure, axes: Axes, *, width_um: float, height_um: float
) -> None:
    """Draw a scale bar of round length below a panel, with the slide's size."""
    length = round_length(width_um)

    def below(points: float) -> Transform:
        y = offset_copy(axes.transAxes, figure, y=-points, units="points")
        return blended_transform_factory(axes.transData, y)

    axes.plot(
        [0, length],
        [0, 0],
        transform=below(11),
        color=INK,
        linewidth=3,
        solid_capstyle="butt",
        clip_on=False,
    )
    size = f"{format_length(width_um)} {TIMES} {format_length(height_um)}"
    lines = ((length, 11, f"  {format_length(length)}", INK), (0.0, 27, size, QUIET))
    for x, points, text, color in lines:
        axes.text(
            x,
            0,
            text,
            transform=below(points),
            size=10,
            color=color,
            va="center_baseline",
        )


def probability_colors() -> Colormap:
    """Turbo over 0..1, transparent below :data:`VISIBLE_FROM`."""
    probability = np.linspace(0, 1, 256)
    # The last tenth of Turbo is a dark red that looks brown on stained tissue.
    colors = colormaps["turbo"](probability * 0.9)
    colors[:, 3] = np.where(probability < VISIBLE_FROM, 0, ALPHA)
    return ListedColormap(colors, name="probability")


def variance_colors() -> Colormap:
    """Semi-transparent Magma."""
    colors = colormaps["magma"](np.linspace(0, 1, 256))
    colors[:, 3] = VARIANCE_ALPHA
    return ListedColormap(colors, name="variance")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whatever the path's suffix."""
    figure.savefig(path, format="png", metadata={"Software": "digipath_ray"})
