"""Draws the patches of a cohort: one Ray task per slide."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.distributed.attempts import explain, watched
from digipath_ray.distributed.tasks import for_each_slide
from digipath_ray.run.directory import READERS
from digipath_ray.run.failure import OUTSIDE, Failure, RunStopped
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.sampled import read_samples, sample_slide

READ_TIMEOUT_S = 600.0
"""Seconds after which a slide's preparation is abandoned."""
TRIES = 3


def try_sample(root: str, row: SlideRow, recipe: Recipe) -> pa.Table | Failure:
    """Samples of a slide, or its failure; a hanging process is killed."""
    try:
        with watched(READ_TIMEOUT_S):
            return sample_slide(row, recipe, FitDirectory(root))
    except Exception as e:
        return explain(e, row, "prepare")


def sample_cohort(
    directory: FitDirectory,
    rows: Sequence[SlideRow],
    recipe: Recipe,
    *,
    report: Callable[[int], None] = lambda n: None,
) -> tuple[dict[str, pa.Table], list[Failure]]:
    """Draw patches on every slide not yet sampled: slide_id -> SAMPLES.

    Args:
        directory: directory of the fit.
        rows: slides of the cohort.
        recipe: sampling settings.
        report: called with the number of slides sampled so far.

    Raises:
        RunStopped: a slide was held up through no fault of its own.
    """

    def read(row: SlideRow) -> pa.Table | None:
        return read_samples(row, recipe, directory)

    with ThreadPoolExecutor(READERS) as pool:
        ready = list(pool.map(read, rows))
    results: dict[str, pa.Table | Failure] = {
        row.slide_id: table
        for row, table in zip(rows, ready, strict=True)
        if table is not None
    }
    before = len(results)
    report(before)
    results |= for_each_slide(
        try_sample,
        [row for row in rows if row.slide_id not in results],
        str(directory.root),
        recipe,
        attempts=TRIES,
        report=lambda n: report(before + n),
    )
    failures = [a for a in results.values() if isinstance(a, Failure)]
    for failure in failures:
        if failure.cause in OUTSIDE:  # without these slides it would be another fit
            raise RunStopped(
                f"{failure.slide_id} and perhaps others could not be sampled: "
                f"{failure.error}; {failure.hint}"
            )
    return {i: a for i, a in results.items() if isinstance(a, pa.Table)}, failures
