"""Some chunks of finished slides predicted again, and compared with their heatmaps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from digipath_ray.cohort.pseudonyms import hide_files
from digipath_ray.config.run import MemberSpec, Precision, RunConfig
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.patches import Cells, Grid
from digipath_ray.pipeline.finish import stitch
from digipath_ray.pipeline.prepare import grid_of, open_cohort_slide
from digipath_ray.pipeline.segment import PredictChunk, predict_chunks
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.record import DoneRecord
from digipath_ray.slide.open import SlideError
from digipath_ray.verify.maps import chunks_of, coverage

LARGEST, MEAN = 0.01, 0.001
"""Differences of the probability that another device or batch may make in float32."""
IN_HALF = 5.0
"""How many times as much it may be in half precision."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A chunk predicted again, and how far its heatmap is from it.

    Attributes:
        slide_id: of the slide.
        chunk: its number.
        pixels: heatmap px that no other chunk has a share in.
        largest: difference of any channel there.
        mean: of the probability.
    """

    slide_id: str
    chunk: int
    pixels: int
    largest: float
    mean: float

    def is_same(self, precision: str) -> bool:
        """Whether the difference is within what rounding makes."""
        return is_rounding(self.largest, self.mean, precision)


def is_rounding(largest: float, mean: float, precision: str) -> bool:
    """Whether two heatmaps of a precision may be of the same networks; not for NaN."""
    times = 1.0 if precision == "float32" else IN_HALF
    return largest <= LARGEST * times and mean <= MEAN * times


def difference(
    a: Heatmap, b: Heatmap, pixels: NDArray[np.bool_]
) -> tuple[float, float]:
    """Largest difference of any channel and mean of the probability, at some pixels.

    NaN in both is no difference: one member alone has seen the pixel, then as now. In
    one of them it makes the largest NaN.
    """
    first, second = a.data[:, pixels], b.data[:, pixels]
    gap = np.abs(first - second)
    gap[np.isnan(first) & np.isnan(second)] = 0
    return float(gap.max()), float(gap[a.channels.index("probability")].mean())


def repeat_chunks(
    run: RunDirectory,
    done: Sequence[DoneRecord],
    config: RunConfig,
    wanted: int,
    *,
    seed: int,
    device: str,
) -> Iterator[Repeated | str]:
    """Predict chunks of a run again, drawn at random, until ``wanted`` are compared.

    Args:
        run: where the slides are finished.
        done: their records.
        config: of the run, resolved.
        wanted: chunks; fewer if there are not as many.
        seed: of the draw.
        device: that torch runs the networks on.

    Yields:
        What was found of a chunk; or why one could not be predicted again.

    Raises:
        ValueError: the networks' weights are not those of the run.
    """
    predictors: dict[tuple[str, ...], PredictChunk] = {}
    compared = 0
    for record, number in draw_chunks(done, seed=seed):
        if compared == wanted:
            return
        own = config_for(record, config)
        chunks = chunks_of(run, record, own)
        pixels = own_pixels(record.slide.grid(own.grid), chunks, number, own)
        if not pixels.any():
            continue
        names = tuple(record.members)
        if names not in predictors:
            predictors[names] = load_ensemble(own, device=device)
        try:
            predict = predictors[names]
            yield repeat_chunk(
                run, record, number, own, predict, cells=chunks[number], pixels=pixels
            )
            compared += 1
        except (SlideError, OSError) as e:
            why = hide_files(str(e), record.slide)
            yield f"{record.slide.slide_id}, chunk {number}: {why}"


def draw_chunks(
    done: Sequence[DoneRecord], *, seed: int
) -> list[tuple[DoneRecord, int]]:
    """All chunks of finished slides in a random order: those to predict come first."""
    every = [(record, n) for record in done for n in range(record.slide.chunks)]
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))]


def own_pixels(
    grid: Grid, chunks: Sequence[Cells], number: int, config: RunConfig
) -> NDArray[np.bool_]:
    """Bool [H, W]: heatmap px in which no chunk but this one has a share."""
    others = [cells for i, cells in enumerate(chunks) if i != number]
    covered = coverage(grid, [chunks[number]], config) > 0
    return np.asarray(covered & (coverage(grid, others, config) == 0))


def members_of(record: DoneRecord, config: RunConfig) -> tuple[MemberSpec, ...]:
    """The members that predicted a slide; out of fold they are not all."""
    return tuple(m for m in config.members if m.name in record.members)


def repeat_chunk(
    run: RunDirectory,
    record: DoneRecord,
    number: int,
    config: RunConfig,
    predict: PredictChunk,
    *,
    cells: Cells,
    pixels: NDArray[np.bool_],
) -> Repeated:
    """Predict one chunk of a finished slide again.

    Args:
        run: where the slide is finished.
        record: of the slide.
        number: of the chunk.
        config: of the run, with the slide's members and precision.
        predict: these members.
        cells: [n, 2], the chunk's patches.
        pixels: [H, W], where to compare (:func:`own_pixels`).

    Raises:
        SlideError: the slide cannot be read, or is another now.
        OSError, ValueError: a file of the run cannot be read.
    """
    slide = record.slide
    with open_cohort_slide(
        slide.path, slide.mpp, config, version=slide.version, digest=slide.digest
    ) as opened:
        grid = grid_of(opened, config)
        found = predict_chunks(
            opened, grid, [cells], config, predict, stain=slide.normalized_from
        )
    now, then = stitch(grid, found, config), read_heatmap(run.heatmap(slide.slide_id))
    largest, mean = difference(now, then, pixels)
    return Repeated(
        slide_id=slide.slide_id,
        chunk=number,
        pixels=int(np.count_nonzero(pixels)),
        largest=largest,
        mean=mean,
    )


def config_for(record: DoneRecord, config: RunConfig) -> RunConfig:
    """The config that a finished slide was predicted with."""
    precision = cast(Precision, record.precision)
    compute = replace(config.compute, precision=precision)
    return replace(config, members=members_of(record, config), compute=compute)
