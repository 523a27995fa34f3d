"""Figure of two heatmaps of a slide, side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from digipath_ray.figures.figure import (
    add_panel,
    add_strip,
    open_figure,
    show_map,
    write_figure,
)
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.compare import NAMES, on_one_grid, read_run
from digipath_ray.words import DOT, TIMES, format_length


def draw_comparison(
    a: Heatmap,
    b: Heatmap,
    *,
    title: str,
    names: tuple[str, str] = NAMES,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw both probabilities and B - A, side by side."""
    a, b, note = on_one_grid(a, b)
    size = {"width_um": a.width * a.mpp_x, "height_um": a.height * a.mpp_y}
    difference = b.probability - a.probability
    reach = max(float(np.abs(difference).max()), 1e-6)
    sides = [format_length(side) for side in size.values()]
    extent = f" {TIMES} ".join(sides)
    largest = f"largest probability difference {np.abs(difference).max():.3g}"
    figure, layout = open_figure(
        3,
        **size,
        title=title,
        subtitle=f"{largest}{DOT}{extent}",
        notes=[*notes, note] if note else notes,
    )
    turbo, plus_minus = colormaps["turbo"], colormaps["RdBu_r"]
    panels = (
        (names[0], a.probability, a, turbo, Normalize(0, 1)),
        (names[1], b.probability, b, turbo, Normalize(0, 1)),
        ("Difference", difference, _either(a, b), plus_minus, Normalize(-reach, reach)),
    )
    labels = ("probability", "probability", "probability, right minus left")
    for i, (name, plane, heatmap, cmap, norm) in enumerate(panels):
        axes = add_panel(figure, layout, i, title=name, **size)
        show_map(axes, plane, heatmap, cmap=cmap, norm=norm)
        add_strip(figure, layout, i, cmap=cmap, norm=norm, label=labels[i])
    return figure


def _either(a: Heatmap, b: Heatmap) -> Heatmap:
    """Copy of ``a`` that counts as predicted wherever either heatmap is."""
    return Heatmap(
        channels=a.channels,
        data=a.data,
        weight=a.weight + b.weight,
        mpp_x=a.mpp_x,
        mpp_y=a.mpp_y,
    )


def write_comparison_figure(
    path: Path,
    a: Heatmap,
    b: Heatmap,
    *,
    title: str,
    names: tuple[str, str] = NAMES,
    notes: Sequence[str] = (),
) -> None:
    """Write :func:`draw_comparison`'s figure as a PNG."""
    figure = draw_comparison(a, b, title=title, names=names, notes=notes)
    write_figure(path, figure)


def distinct_names(a: Path, b: Path) -> tuple[str, str]:
    """Shortest distinct suffixes of two paths, at least the last part of each."""
    longest = max(len(a.parts), len(b.parts))
    for n in range(1, longest + 1):
        names = Path(*a.parts[-n:]).as_posix(), Path(*b.parts[-n:]).as_posix()
        if names[0] != names[1]:
            return names
    return a.name, b.name


def write_comparison_figures(
    a: Path, b: Path, out: Path, *, notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``out/<slide_id>.png`` for each slide with a heatmap in both runs."""
    runs = read_run(a), read_run(b)
    short = distinct_names(a.resolve(), b.resolve())
    names = (f"A: {short[0]}", f"B: {short[1]}")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for slide_id in sorted(runs[0].tumor_mm2.keys() & runs[1].tumor_mm2.keys()):
        pair = [run.heatmap_path(slide_id) for run in runs]
        if not all(path.is_file() for path in pair):
            continue
        maps = [read_heatmap(path) for path in pair]
        path = out / f"{slide_id}.png"
        write_comparison_figure(path, *maps, title=slide_id, names=names, notes=notes)
        written.append(path)
    return written
