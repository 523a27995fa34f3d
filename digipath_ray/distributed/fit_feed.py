"""Feeds a training worker: Ray Data tasks that cut patches from slides.

draws of an epoch -> this worker's part -> batches read by CPU tasks, in order
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, TaskPoolStrategy

from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import read_toml, recipe_from_tree
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.reader import Columns, PatchReader
from digipath_ray.training.sampling import (
    draw_epoch,
    draw_validation,
    epoch_length,
    share_of,
)

AHEAD = 4
"""Batches prefetched per worker."""


@functools.lru_cache(maxsize=1)
def patch_reader(root: str, digest: str) -> PatchReader:
    """This process's patch reader, whose slides stay open between batches.

    Args:
        root: of the fit.
        digest: of what the fit is made from: with another one it is another reader.
    """
    directory = FitDirectory(root)
    recipe = recipe_from_tree(read_toml(directory.settings))
    rows = directory.read_cohort()
    digests = directory.read_digests()
    return PatchReader({row.slide_id: row for row in rows}, recipe, digests=digests)


def read_batch(
    draws: pa.Table, *, root: str, digest: str, contexts: tuple[int, ...] = ()
) -> Columns:
    """Read a batch of draws."""
    return patch_reader(root, digest).read(draws, contexts)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Batches of one worker in every epoch.

    Attributes:
        directory: directory of the fit.
        recipe: recipe of the fit.
        fit: SAMPLES of the training slides.
        validation: SAMPLES of the validation slides.
        rank: rank of this worker.
        workers: number of workers that share the batches.
        readers: concurrent reading tasks.
        reader_cpus: CPUs that each requests from Ray.
        contexts: how many times coarser the surroundings are that the member sees.
    """

    directory: FitDirectory
    recipe: Recipe
    fit: pa.Table
    validation: pa.Table
    rank: int
    workers: int
    readers: int
    reader_cpus: float
    contexts: tuple[int, ...] = ()

    def draws(self, epoch: int) -> pa.Table:
        """Draws of all workers in an epoch."""
        recipe = self.recipe
        size = recipe.fit.batch_size
        return draw_epoch(
            self.fit,
            epoch=epoch,
            patches=epoch_length(self.fit, recipe.sampling, size),
            batch_size=size,
            jitter_px=recipe.sampling.jitter_px,
            seed=recipe.fit.seed,
        )

    def epoch(self, epoch: int) -> Iterator[Columns]:
        """Batches of this worker in an epoch."""
        mine = share_of(self.draws(epoch), rank=self.rank, workers=self.workers)
        return self._read(mine)

    def validate(self) -> Iterator[Columns]:
        """This worker's batches of the validation samples."""
        size = self.recipe.fit.batch_size
        draws = draw_validation(
            self.validation,
            limit=self.recipe.sampling.validation_patches,
            batch_size=size,
            seed=self.recipe.fit.seed,
        )
        mine = np.arange(len(draws)) % self.workers == self.rank
        return self._read(draws.filter(pa.array(mine)))

    def _read(self, draws: pa.Table) -> Iterator[Columns]:
        """Read the draws as batches, in order."""
        if len(draws) == 0:
            return iter(())
        size = self.recipe.fit.batch_size // self.workers
        with DataContext.current(_ordered_context()):
            rows = ray.data.from_arrow(draws)
        plan = rows.repartition(target_num_rows_per_block=size).map_batches(
            read_batch,
            batch_size=size,
            batch_format="pyarrow",
            fn_kwargs={
                "root": str(self.directory.root),
                "digest": self.directory.digest(),
                "contexts": self.contexts,
            },
            compute=TaskPoolStrategy(size=self.readers),
            num_cpus=self.reader_cpus,
        )
        batches: Iterator[Columns] = iter(
            plan.iter_batches(
                batch_size=size, batch_format="numpy", prefetch_batches=AHEAD
            )
        )
        return batches


def _ordered_context() -> DataContext:
    """Ray Data's settings: ordered blocks, so that equal seeds give equal fits."""
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Readers with open slides use much memory from the start; it is not a leak.
    memory = context.issue_detectors_config.high_memory_detector_config
    memory.detection_time_interval_s = -1
    return context
