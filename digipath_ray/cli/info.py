"""``digipath info``: what a slide is, and what a run would do with it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from digipath_ray.artifacts.kinds import flags
from digipath_ray.cli.annotation import describe_annotation
from digipath_ray.cli.options import config_as_known
from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree
from digipath_ray.geometry import MPP_TOLERANCE, NoLevelFineEnough
from digipath_ray.patches import Grid, cut_chunks
from digipath_ray.pipeline.place import look_for_artifacts, no_patches, place_patches
from digipath_ray.pipeline.prepare import (
    MPP_FLAG,
    check_heatmap_size,
    differs_from_file,
    find_slide_tissue,
    grid_of,
    mpp_deviation,
    open_cohort_slide,
    slide_flags,
)
from digipath_ray.pipeline.stains import FLAG as STAIN_FLAG
from digipath_ray.pipeline.stains import SlideStains, find_stains
from digipath_ray.slide.open import Slide, SlideError, SlideInfo
from digipath_ray.words import count

Line = tuple[str, str]
"""A property of a slide and its value."""


def show_slides(
    console: Console,
    slides: Sequence[str],
    tree: Tree,
    *,
    weights: str | None,
    force: bool,
    annotation: str | None = None,
    picture: Path | None = None,
    annotations: AnnotationSpec | None = None,
) -> int:
    """Print a page per slide; 1 if a run could not use one.

    Args:
        console: where to print.
        slides: as the user named them.
        tree: settings of a run.
        weights: weights of a run.
        force: accept what contradicts their cards.
        annotation: annotation of the only slide, which is drawn too.
        picture: where; default: ``<slide_id>_annotation.png``.
        annotations: how annotations are understood.

    Raises:
        ValueError: an annotation is given for several slides.
    """
    rows = read_cohort(slides)
    if annotation is not None:
        rows = [with_annotation(rows, annotation)]
        picture = picture or Path(f"{rows[0].slide_id}_annotation.png")
    spec = annotations or AnnotationSpec()
    config = config_as_known(tree, weights=weights, force=force)
    mpp_given = states_mpp(tree, weights)
    code = 0
    for row in rows:
        console.print(f"[bold]{escape(row.slide_id)}[/]  {escape(row.path)}")
        try:
            if annotation is None:
                print_lines(console, describe(row, config, mpp_given=mpp_given))
            if row.annotation is not None:
                with open_cohort_slide(row.path, row.mpp, config) as slide:
                    lines = describe_annotation(row, slide, spec, picture=picture)
                    print_lines(console, lines)
        except SlideError as e:
            console.print(f"  [red]{'unusable':<11}[/]{escape(str(e))}")
            console.print(f"  {'fix':<11}{escape(e.hint)}")
            code = 1
    return code


def print_lines(console: Console, lines: Iterable[Line]) -> None:
    """Print properties as they are found."""
    for name, value in lines:
        console.print(f"  {name:<11}{escape(value)}")


def with_annotation(rows: Sequence[SlideRow], annotation: str) -> SlideRow:
    """The only slide with an annotation.

    Raises:
        ValueError: there are several slides.
    """
    if len(rows) != 1:
        raise ValueError(
            f"--annotation {annotation}: of one slide, but {len(rows)} are given: name "
            "the slide that it belongs to"
        )
    return replace(rows[0], annotation=annotation)


def states_mpp(tree: Tree, weights: str | None) -> bool:
    """Whether an option, a file or a card gives the mpp to read at."""
    stated = [weights, *(m.get("weights") for m in tree.get("members", []))]
    cards = set(stated) - {None, "random", "imagenet"}
    return bool(cards) or "mpp" in tree.get("grid", {})


def describe(row: SlideRow, config: RunConfig, *, mpp_given: bool) -> Iterator[Line]:
    """All that is known of a slide, line by line, as far as it can be read.

    Args:
        row: the slide.
        config: what a run would do.
        mpp_given: False if the config's mpp is but the default.

    Raises:
        SlideError: a run could not use the slide.
    """
    with open_cohort_slide(row.path, row.mpp, config) as slide:
        yield from describe_file(slide.info)
        yield from describe_run(slide, config, row.mask, mpp_given=mpp_given)


def describe_file(info: SlideInfo) -> Iterator[Line]:
    """What the file says."""
    yield "format", info.format
    yield "size", f"{info.width} x {info.height} px"
    if info.mpp_x is None or info.mpp_y is None:
        yield "mpp", "not stated"
    else:
        stated = ""
        if info.mpp_source != "file" and info.file_mpp is not None:
            stated = f"; the file says {info.file_mpp:.4g}"
        if differs_from_file(info):
            stated += ": ONE OF THEM IS WRONG"
        yield "mpp", f"{_um(info.mpp_x, info.mpp_y)}, from: {info.mpp_source}{stated}"
    power = info.objective_power
    yield "objective", f"{power:g}x" if power else "not stated"
    levels = zip(info.level_dimensions, info.level_downsamples, strict=True)
    for i, ((width, height), d) in enumerate(levels):
        mpp = f", {info.mpp_x * d:.4g} um/px" if info.mpp_x else ""
        yield f"level {i}", f"{width} x {height} px, 1:{d:.4g}{mpp}"
    if info.canvas is not None:
        c = info.canvas
        yield (
            "canvas",
            f"{c.width} x {c.height} px, of which this is the part from "
            f"({c.offset_x}, {c.offset_y})",
        )
    for note in info.notes:
        yield "note", note.text


def describe_run(
    slide: Slide, config: RunConfig, mask: str | None = None, *, mpp_given: bool
) -> Iterator[Line]:
    """What a run would do with the slide.

    Raises:
        SlideError: nothing; it says how to mend that.
    """
    grid = usable_grid(slide, config, mpp_given=mpp_given)
    yield "read", f"{how_read(grid)}, by {slide.reader(grid.frame.level)}"
    yield "patches", f"{grid.spec.patch_px} px every {grid.spec.stride_px} px"
    thumbnail, tissue = find_slide_tissue(slide, config, mask)
    quality = tissue.quality
    source = "given mask" if mask else config.tissue.tissue
    yield "tissue", f"{quality.tissue_mm2:.2f} mm2 ({source})"
    found = look_for_artifacts(slide, thumbnail, tissue, config)
    raised = slide_flags(slide.info, grid, quality)
    stains = find_stains(slide, tissue, config)
    if stains is not None:
        yield "stains", describe_stains(stains)
        raised += [] if stains.note is None else [STAIN_FLAG]
    if found is not None:
        shares = found.shares(tissue.mask)
        raised += flags(shares)
        held = (f"{name} {share:.1%}" for name, share in shares.items() if share)
        yield "artifacts", ", ".join(held) or "none"
    yield "flags", ", ".join(raised) or "none"
    cells = place_patches(grid, tissue, found, config)
    chunks = cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
    places = grid.rows * grid.cols
    yield (
        "to predict",
        f"{len(cells)} of {count(places, 'patch')}"
        + (f", in {count(len(chunks), 'chunk')}" if chunks else ""),
    )
    if len(cells) == 0:
        look_at = "its masks with digipath prepare"
        raise no_patches(config, tissue, found, look_at)
    yield "heatmap", describe_heatmap(grid, config)
    check_heatmap_size(grid, config)


def usable_grid(slide: Slide, config: RunConfig, *, mpp_given: bool) -> Grid:
    """The grid over the slide.

    Raises:
        SlideError: no mpp, or no level fine enough; the message says so where the mpp
            is the default and not one that was asked for.
    """
    try:
        return grid_of(slide, config)
    except SlideError as e:
        if mpp_given or not isinstance(e.__cause__, NoLevelFineEnough):
            raise
        mpp = nominal_mpp(max(slide.info.need_mpp()))
        raise SlideError(
            f"for the default {config.grid.mpp:g} um/px: {e}",
            "say at which mpp the networks were trained: with --weights, --preset, or "
            f"--mpp {mpp:.3g}, which this slide has",
        ) from e


def nominal_mpp(mpp: float) -> float:
    """0.25, 0.5, 1 ... if a level of ``mpp`` would be read as it is for that."""
    nominal = 0.25 * 2.0 ** round(math.log2(mpp / 0.25))
    return nominal if abs(mpp / nominal - 1) <= MPP_TOLERANCE else mpp


def how_read(grid: Grid) -> str:
    """The level and the scaling in words."""
    frame = grid.frame
    how = "as it is" if frame.native else f"resampled 1:{frame.lv_per_md_x:.4g}"
    if frame.upsampled:
        how += " (UPSAMPLED)"
    effective = _um(frame.mpp_x, frame.mpp_y)
    drift = max(frame.mpp_x, frame.mpp_y) / grid.spec.mpp - 1
    off = f" ({abs(drift):.1%} {'coarser' if drift > 0 else 'finer'})"
    shown = off if mpp_deviation(grid) > MPP_FLAG else ""
    return f"level {frame.level} {how}: {effective} for {grid.spec.mpp:g} asked{shown}"


def describe_stains(stains: SlideStains) -> str:
    """The estimate in words, or why there is none."""
    if stains.found is None:
        return f"left as they are: {stains.note}"
    said = stains.found.describe()
    return said if stains.note is None else f"{said}; left as they are: {stains.note}"


def describe_heatmap(grid: Grid, config: RunConfig) -> str:
    """Size, scale and channels in words."""
    channels = ", ".join(config.channels)
    if not config.members:
        channels += ", and epistemic with several members"
    return f"{grid.hm_width} x {grid.hm_height} px of {_um(*grid.hm_mpp)}: {channels}"


def _um(x: float, y: float) -> str:
    return f"{x:.4g} um/px" if f"{x:.4g}" == f"{y:.4g}" else f"{x:.4g} x {y:.4g} um/px"
