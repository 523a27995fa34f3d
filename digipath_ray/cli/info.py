"""``digipath info``: what a slide is, and what a run would do with it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from digipath_ray.cohort import read_cohort
from digipath_ray.config import RunConfig, Tree, from_tree
from digipath_ray.networks import resolve
from digipath_ray.patches import Grid, cut_chunks, keep_cells
from digipath_ray.prepared import find_slide_tissue, grid_of, open_cohort_slide
from digipath_ray.slide import Slide, SlideError


def show_slides(
    console: Console, slides: Sequence[str], tree: Tree, *, weights: str | None
) -> int:
    """Print a page per slide; 1 if any could not be used."""
    config = resolve(tree, weights=weights) if weights else from_tree(tree)
    code = 0
    for row in read_cohort(slides):
        console.print(f"[bold]{row.slide_id}[/]  {row.path}", highlight=False)
        try:
            with open_cohort_slide(row.path, row.mpp, config) as slide:
                console.print(file_table(slide))
                console.print(run_table(slide, config, row.mask))
        except SlideError as e:
            console.print(f"  [red]cannot be used:[/] {e}\n  fix: {e.hint}")
            code = 1
    return code


def _table(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name, value in rows:
        table.add_row(f"  {name}", value)
    return table


def file_table(slide: Slide) -> Table:
    """What the file says."""
    info = slide.info
    mpp = "none" if info.mpp_x is None else f"{info.mpp_x:g} x {info.mpp_y:g} um/px"
    levels = [
        f"{i}: {w} x {h} px, 1/{d:g}"
        + (f", {info.mpp_x * d:.4g} um/px" if info.mpp_x else "")
        for i, ((w, h), d) in enumerate(
            zip(info.level_dimensions, info.level_downsamples, strict=True)
        )
    ]
    power = f"{info.objective_power:g}x" if info.objective_power else "not stated"
    return _table(
        [
            ("format", info.format),
            ("size", f"{info.width} x {info.height} px"),
            ("mpp", f"{mpp} (from: {info.mpp_source})"),
            ("objective", power),
            ("levels", "\n".join(levels)),
        ]
    )


def run_table(slide: Slide, config: RunConfig, mask: str | None) -> Table:
    """What a run would do with the slide.

    Raises:
        SlideError: nothing; it says how to mend that.
    """
    grid = grid_of(slide, config)
    _, tissue = find_slide_tissue(slide, config, mask)
    cells = keep_cells(grid, tissue.sampling)
    chunks = cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
    quality = tissue.quality
    return _table(
        [
            ("reads", how_read(grid)),
            ("tissue", f"{quality.tissue_mm2:.2f} mm2 ({config.tissue.tissue})"),
            ("flags", ", ".join(quality.flags) or "none"),
            (
                "patches",
                f"{len(cells)} of {grid.rows * grid.cols}, {len(chunks)} chunks",
            ),
            (
                "heatmap",
                f"{grid.hm_width} x {grid.hm_height} px of {grid.hm_mpp[0]:.4g} x "
                f"{grid.hm_mpp[1]:.4g} um: {', '.join(config.channels)}",
            ),
        ]
    )


def how_read(grid: Grid) -> str:
    """The level and the scaling in words."""
    frame, spec = grid.frame, grid.spec
    how = "as it is" if frame.native else f"resampled 1:{frame.lv_per_md_x:.4g}"
    if frame.upsampled:
        how += " (UPSAMPLED)"
    return (
        f"level {frame.level} {how}: effective {frame.mpp_x:.4g} x {frame.mpp_y:.4g} "
        f"um/px for {spec.mpp:g} asked; patches of {spec.patch_px} px every "
        f"{spec.stride_px} px"
    )
