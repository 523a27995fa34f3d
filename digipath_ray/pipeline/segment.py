"""The whole journey of one slide in one process, without Ray.

``distributed/`` spreads these same steps over a cluster; here they are a loop.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.patches import Cells, Grid, cut_chunks
from digipath_ray.pipeline.chunk import (
    Arrays,
    ChunkSums,
    read_chunk,
    read_contexts,
    sum_chunk,
)
from digipath_ray.pipeline.finish import stitch
from digipath_ray.pipeline.place import look_for_artifacts, no_patches, place_patches
from digipath_ray.pipeline.prepare import (
    check_heatmap_size,
    find_slide_tissue,
    grid_of,
    open_cohort_slide,
)
from digipath_ray.pipeline.stains import find_stains
from digipath_ray.slide.open import Slide
from digipath_ray.stain.estimate import StainEstimate

PredictChunk = Callable[..., Arrays]
"""Blocks [nb, stride, stride, 3] and index [n, k, k] -> channel -> [n, p, p].

Of a slide that is normalized its stains are given as ``stain``, a
:class:`digipath_ray.stain.estimate.StainEstimate`, and where members see a context,
``contexts``: how many times coarser -> blocks and index of the patches' contexts."""


def segment_slide(
    path: str | Path,
    config: RunConfig,
    predict: PredictChunk,
    *,
    slide_mpp: float | None = None,
    mask: str | None = None,
) -> Heatmap:
    """The heatmap of one slide, made in this process.

    Args:
        path: file of the slide.
        config: what to do; ``compute`` only gives the chunk size here.
        predict: the ensemble, from :func:`digipath_ray.networks.predict.load_ensemble`.
        slide_mpp: um per level-0 px that overrides the file's.
        mask: image of the tissue, in place of finding it.

    Raises:
        SlideError: the slide cannot be used, or shows no tissue.
    """
    with open_cohort_slide(str(path), slide_mpp, config) as slide:
        grid = grid_of(slide, config)
        check_heatmap_size(grid, config)
        thumbnail, tissue = find_slide_tissue(slide, config, mask)
        found = look_for_artifacts(slide, thumbnail, tissue, config)
        cells = place_patches(grid, tissue, found, config)
        if len(cells) == 0:
            raise no_patches(config, tissue, found, "the slide")
        stains = find_stains(slide, tissue, config)
        chunks = cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
        sums = predict_chunks(
            slide,
            grid,
            chunks,
            config,
            predict,
            stain=None if stains is None else stains.usable,
        )
        return stitch(grid, sums, config)


def predict_chunks(
    slide: Slide,
    grid: Grid,
    chunks: Iterable[Cells],
    config: RunConfig,
    predict: PredictChunk,
    *,
    stain: StainEstimate | None = None,
) -> list[ChunkSums]:
    """The chunks of an open slide, read and predicted one after another.

    ``stain`` are the slide's, if it is to be normalized.
    """
    sums = []
    for number, cells in enumerate(chunks):
        blocks, pixels, index = read_chunk(slide, grid, cells, config)
        more: dict[str, Any] = {} if stain is None else {"stain": stain}
        if config.contexts:
            more["contexts"] = read_contexts(slide, grid, cells, config)
        values = predict(pixels, index, **more)
        sums.append(sum_chunk(values, blocks, index, number, config))
    return sums
