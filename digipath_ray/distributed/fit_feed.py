"""What feeds a worker of a fit: Ray Data tasks that cut patches from slides.

draws of an epoch -> this worker's share -> batches read by CPU tasks, in order
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
from digipath_ray.storage.files import file_digest
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.reader import Columns, PatchReader
from digipath_ray.training.sampling import (
    draw_epoch,
    draw_validation,
    epoch_length,
    share_of,
)

AHEAD = 4
"""Batches that a worker has fetched before it asks for them."""


@functools.lru_cache(maxsize=1)
def patch_reader(root: str, digest: str) -> PatchReader:
    """This process's reader of a fit's slides, which stay open between batches."""
    directory = FitDirectory(root)
    recipe = recipe_from_tree(read_toml(directory.settings))
    rows = directory.read_cohort()
    return PatchReader({row.slide_id: row for row in rows}, recipe)


def read_batch(draws: pa.Table, *, root: str, digest: str) -> Columns:
    """A batch of draws, read."""
    return patch_reader(root, digest).read(draws)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """A worker's batches of every epoch.

    Attributes:
        directory: of the fit.
        recipe: of the fit.
        fit: SAMPLES of the slides fitted on.
        validation: SAMPLES of the slides validated on.
        rank: this worker's number.
        workers: how many share the batches.
        readers: reading tasks at once.
        reader_cpus: what each asks of Ray.
    """

    directory: FitDirectory
    recipe: Recipe
    fit: pa.Table
    validation: pa.Table
    rank: int
    workers: int
    readers: int
    reader_cpus: float

    def draws(self, epoch: int) -> pa.Table:
        """All workers' draws of an epoch."""
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
        """This worker's batches of an epoch."""
        mine = share_of(self.draws(epoch), rank=self.rank, workers=self.workers)
        return self._read(mine)

    def validate(self) -> Iterator[Columns]:
        """This worker's part of what a member is validated on."""
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
        """The draws as batches, in order."""
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
                "digest": file_digest(self.directory.settings),
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
    """Ray Data's settings: blocks in order, so that equal seeds give equal fits."""
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Readers that hold open slides are large from the start: no news, and no leak.
    memory = context.issue_detectors_config.high_memory_detector_config
    memory.detection_time_interval_s = -1
    return context
