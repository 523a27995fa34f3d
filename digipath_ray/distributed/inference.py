"""The streaming plan: shards of slides -> chunks of pixels -> members -> heatmaps.

    read_parquet(shards) -> read (CPU tasks) -> predict (actor pools) -> the driver
    collects a slide's rows -> one finish task per complete slide

Every stage is stateless and deterministic, so Ray may run any of it again; what must be
remembered is remembered by the driver. A row is one chunk; its block in the object
store is its own, so that it travels the moment it is made.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from digipath_ray.chunk import ChunkSums, read_chunk, sum_chunk
from digipath_ray.config import MemberSpec, RunConfig
from digipath_ray.distributed.cluster import Share
from digipath_ray.distributed.guard import counted, explain, watched
from digipath_ray.ensemble import combine
from digipath_ray.outcome import finish_slide
from digipath_ray.patches import Cells
from digipath_ray.predict import EnsemblePredictor
from digipath_ray.prepared import (
    PreparedSlide,
    grid_of,
    open_cohort_slide,
    read_chunks,
)
from digipath_ray.rundir import Failure, RunDirectory
from digipath_ray.schema import SHARDS

log = logging.getLogger(__name__)

CHUNKS_PER_SHARD = 4
Batch = dict[str, Any]
"""One row as Ray Data hands it: column -> array with a leading axis of 1."""


@dataclass(kw_only=True)
class Tally:
    """What a run has done so far, for the progress line and metrics.json."""

    started: float = field(default_factory=time.time)
    slides: int = 0
    failed: int = 0
    patches: int = 0
    batch_slots: int = 0
    read_seconds: float = 0.0
    read_px: int = 0
    predict_seconds: float = 0.0
    finish_seconds: float = 0.0
    open_slides_max: int = 0
    first_patch: float | None = None
    first_slide: float | None = None
    patches_at_first_slide: int | None = None


def shard_table(run: RunDirectory, slides: Sequence[PreparedSlide]) -> pa.Table:
    """The SHARDS table of slides, one row per read task, slides one after another."""
    rows: list[dict[str, Any]] = []
    for slide in slides:
        chunks = read_chunks(run, slide.slide_id)
        for shard, first in enumerate(range(0, len(chunks), CHUNKS_PER_SHARD)):
            part = chunks[first : first + CHUNKS_PER_SHARD]
            rows.append(
                {
                    "slide_id": slide.slide_id,
                    "path": slide.row["path"],
                    "slide_mpp": slide.slide_mpp,
                    "shard": shard,
                    "first_chunk": first,
                    "slide_chunks": len(chunks),
                    "cells": [c.ravel().tolist() for c in part],
                }
            )
    return pa.Table.from_pylist(rows, schema=SHARDS)


def read_shard(batch: Batch, *, root: str, config: RunConfig) -> Iterator[Batch]:
    """A shard's chunks as rows of pixels; one error row if the slide cannot be read."""
    run = RunDirectory(root)
    row = {name: values[0] for name, values in batch.items()}
    slide_id = str(row["slide_id"])
    if run.attempts(f"{slide_id}.failed").exists():
        return
    mpp = row["slide_mpp"]
    slide_mpp = None if mpp is None or np.isnan(mpp) else float(mpp)
    slide = None
    try:
        for number, flat in enumerate(row["cells"], start=int(row["first_chunk"])):
            started = time.perf_counter()
            markers = run.attempts(f"{slide_id}.{number}")
            with (
                counted(markers, limit=config.compute.attempts),
                watched(config.compute.read_timeout_s),
            ):
                if slide is None:
                    slide = open_cohort_slide(str(row["path"]), slide_mpp, config)
                    grid = grid_of(slide, config)
                cells = np.asarray(flat, np.int32).reshape(-1, 2)
                blocks, pixels, index = read_chunk(slide, grid, cells, config)
            seconds = time.perf_counter() - started
            yield _pixel_row(slide_id, number, blocks, pixels, index, seconds)
    except Exception as e:
        run.attempts(f"{slide_id}.failed").mkdir(parents=True, exist_ok=True)
        failure = explain(e, {"slide_id": slide_id, "path": str(row["path"])}, "read")
        yield _error_row(failure, config)
    finally:
        if slide is not None:
            slide.close()


def _pixel_row(
    slide_id: str,
    chunk: int,
    blocks: Cells,
    pixels: NDArray[np.uint8],
    index: NDArray[np.int64],
    seconds: float,
) -> Batch:
    return {
        "slide_id": np.array([slide_id]),
        "chunk": np.array([chunk]),
        "error": np.array([""]),
        "blocks": blocks[None],
        "pixels": pixels[None],
        "index": index[None],
        "read_seconds": np.array([seconds]),
        "predict_seconds": np.array([0.0]),
    }


def _error_row(failure: Failure, config: RunConfig) -> Batch:
    """A row of the same columns that carries a failure and nothing else."""
    stride, k = config.grid.stride_px, config.grid.blocks_per_side
    row = _pixel_row(
        failure.slide_id,
        -1,
        np.empty((0, 2), np.int32),
        np.empty((0, stride, stride, 3), np.uint8),
        np.empty((0, k, k), np.int64),
        0.0,
    )
    row["error"] = np.array([json.dumps(asdict(failure))])
    return row


class PredictStage:
    """An actor that holds members and maps chunks of pixels to their posteriors.

    The shared pool has one stage holding all members. With a pool per member the stages
    are chained, and the last one drops the pixels.
    """

    def __init__(
        self, members: Sequence[MemberSpec], last: bool, config: RunConfig, share: Share
    ) -> None:
        self.config = config
        self.last = last
        self.ensemble = EnsemblePredictor(
            members,
            config,
            device="cuda" if share.actor_gpus > 0 else "cpu",
            threads=share.actor_threads,
        )

    def __call__(self, batch: Batch) -> Batch:
        """One chunk: its members' maps added, and summed up by the last stage."""
        if batch["error"][0] != "":
            return self._pass_error(batch)
        started = time.perf_counter()
        try:
            maps = self.ensemble.predict(batch["pixels"][0], batch["index"][0])
            row = {**batch, **{name: value[None] for name, value in maps.items()}}
            if self.last:
                row = self._sum(row)
        except Exception as e:
            self.ensemble.end_process_if_device_is_lost(e)
            slide = {"slide_id": str(batch["slide_id"][0]), "path": ""}
            failure = explain(e, slide, "predict")
            return self._pass_error(_error_row(failure, self.config))
        seconds = time.perf_counter() - started
        row["predict_seconds"] = batch["predict_seconds"] + seconds
        return row

    def _sum(self, row: Batch) -> Batch:
        """The chunk's weighted sums per block, in place of its pixels and patches."""
        names = [m.name for m in self.config.members]
        means = {n: row[f"mean:{n}"][0] for n in names}
        spread = (
            {n: row[f"aleatoric:{n}"][0] for n in names}
            if len(self.config.ensemble.tta) > 1
            else None
        )
        keep = self.config.ensemble.keep_members
        values = combine(means, spread, members=names, keep_members=keep)
        chunk, blocks, index = int(row["chunk"][0]), row["blocks"][0], row["index"][0]
        part = sum_chunk(values, blocks, index, chunk, self.config)
        return self._final_row(row, part.sums, part.weight, len(index))

    def _pass_error(self, batch: Batch) -> Batch:
        """The error row in the columns that the next stage, or the driver, expects."""
        grid = self.config.grid
        if not self.last:
            empty = np.empty((1, 0, grid.hm_patch, grid.hm_patch), np.float32)
            return {**batch, **dict.fromkeys(self.ensemble.columns, empty)}
        side = grid.hm_stride
        sums = np.empty((len(self.config.channels), 0, side, side), np.float32)
        weight = np.empty((0, side, side), np.float32)
        return self._final_row(batch, sums, weight, 0)

    @staticmethod
    def _final_row(
        row: Batch,
        sums: NDArray[np.float32],
        weight: NDArray[np.float32],
        patches: int,
    ) -> Batch:
        kept = ("slide_id", "chunk", "error", "blocks", "read_seconds")
        return {
            **{name: row[name] for name in kept},
            "sums": sums[None],
            "weight": weight[None],
            "patches": np.array([patches]),
            "read_px": np.array([row["pixels"].size // 3]),
            "predict_seconds": row["predict_seconds"],
        }


def lay_plan(run: RunDirectory, config: RunConfig, share: Share) -> Dataset:
    """The lazy Ray Data plan from the shards in the run directory to summed chunks."""
    context = DataContext.get_current()
    context.target_max_block_size = 1  # a row is a block: it travels when it is made
    context.enable_progress_bars = False
    plan = ray.data.read_parquet(str(run.shards)).repartition(
        target_num_rows_per_block=1
    )
    plan = plan.map_batches(
        read_shard,
        batch_size=1,
        fn_kwargs={"root": str(run.root), "config": config},
        compute=TaskPoolStrategy(size=share.readers),
        num_cpus=share.reader_cpus,
    )
    whole = config.compute.pools == "shared"
    pools = [config.members] if whole else [(m,) for m in config.members]
    for members in pools:
        plan = plan.map_batches(
            PredictStage,
            batch_size=1,
            fn_constructor_args=(members, members is pools[-1], config, share),
            compute=ActorPoolStrategy(size=share.actors),
            num_cpus=share.actor_cpus,
            num_gpus=share.actor_gpus,
        )
    return plan


def finish_guarded(
    root: str,
    prepared: PreparedSlide,
    chunks: Sequence[ChunkSums],
    config: RunConfig,
    seconds: float,
) -> tuple[float, Failure | None]:
    """Seconds taken to finish a slide, and why it could not be."""
    started = time.perf_counter()
    run = RunDirectory(root)
    try:
        finish_slide(run, prepared, chunks, config, seconds=seconds)
    except Exception as e:
        return time.perf_counter() - started, explain(e, prepared.row, "finish")
    return time.perf_counter() - started, None


class Collector:
    """Gathers rows by slide on the driver and hands complete slides to finish tasks.

    Holds the slides in flight and nothing of those finished.
    """

    def __init__(
        self,
        run: RunDirectory,
        slides: Sequence[PreparedSlide],
        config: RunConfig,
        share: Share,
        report: Callable[[Tally], None],
    ) -> None:
        self.run = run
        self.config = config
        self.report = report
        self.waiting = {s.slide_id: s for s in slides}
        self.open: dict[str, dict[int, ChunkSums]] = {}
        self.seconds: dict[str, float] = {}
        self.finishing: dict[ray.ObjectRef, PreparedSlide] = {}
        self.failures: list[Failure] = []
        self.tally = Tally()
        self._settings = ray.put(config)
        self._finish = ray.remote(num_cpus=share.finish_cpus, max_retries=3)(
            finish_guarded
        )

    def collect(self, batch: Batch) -> None:
        """Take in the rows of a batch."""
        for i in range(len(batch["slide_id"])):
            self._take({name: values[i] for name, values in batch.items()})
            self.report(self.tally)

    def _take(self, row: dict[str, Any]) -> None:
        slide_id = str(row["slide_id"])
        prepared = self.waiting.get(slide_id)
        if prepared is None:  # finished or failed: a row that came a second time
            return
        if row["error"] != "":
            self._fail(prepared, Failure(**json.loads(str(row["error"]))))
            return
        chunks = self.open.setdefault(slide_id, {})
        self._count(row)
        seconds = float(row["read_seconds"] + row["predict_seconds"])
        self.seconds[slide_id] = self.seconds.get(slide_id, 0.0) + seconds
        number = int(row["chunk"])
        # Copied: a view would pin the row's block in the object store.
        chunks[number] = ChunkSums(
            chunk=number,
            blocks=np.array(row["blocks"]),
            sums=np.array(row["sums"]),
            weight=np.array(row["weight"]),
        )
        if len(chunks) == prepared.row["chunks"]:
            self._start_finish(prepared)

    def _count(self, row: dict[str, Any]) -> None:
        tally, batch = self.tally, self.config.compute.batch_size
        patches = int(row["patches"])
        if tally.first_patch is None:
            tally.first_patch = time.time() - float(row["predict_seconds"])
        tally.patches += patches
        tally.batch_slots += -(-patches // batch) * batch
        tally.read_seconds += float(row["read_seconds"])
        tally.read_px += int(row["read_px"])
        tally.predict_seconds += float(row["predict_seconds"])
        tally.open_slides_max = max(tally.open_slides_max, len(self.open))

    def _fail(self, prepared: PreparedSlide, failure: Failure) -> None:
        slide = prepared.row
        log.warning(
            "%s failed at %s: %s", failure.slide_id, failure.step, failure.error
        )
        known = {"path": slide["path"], "patient_id": slide["patient_id"]}
        self.failures.append(Failure(**{**asdict(failure), **known}))
        self.waiting.pop(prepared.slide_id, None)
        self.open.pop(prepared.slide_id, None)
        self.tally.failed += 1

    def _start_finish(self, prepared: PreparedSlide) -> None:
        """Hand a complete slide on; waits while as many as allowed are finishing."""
        while len(self.finishing) >= self.config.compute.finishers:
            self._settle(timeout=None)
        slide_id = prepared.slide_id
        chunks = list(self.open.pop(slide_id).values())
        self.waiting.pop(slide_id)
        seconds = self.seconds.pop(slide_id)
        ref = self._finish.remote(
            str(self.run.root), prepared, ray.put(chunks), self._settings, seconds
        )
        self.finishing[ref] = prepared
        self._settle(timeout=0)

    def _settle(self, *, timeout: float | None) -> None:
        """Take note of finish tasks that have ended."""
        refs = list(self.finishing)
        if not refs:
            return
        for ref in ray.wait(refs, num_returns=1, timeout=timeout)[0]:
            prepared = self.finishing.pop(ref)
            try:
                seconds, failure = ray.get(ref)
            except ray.exceptions.RayError as e:
                seconds, failure = 0.0, explain(e, prepared.row, "finish")
            self.tally.finish_seconds += seconds
            if failure is not None:
                self._fail(prepared, failure)
                continue
            self.tally.slides += 1
            if self.tally.first_slide is None:
                self.tally.first_slide = time.time()
                self.tally.patches_at_first_slide = self.tally.patches
            self.report(self.tally)

    def drain(self) -> None:
        """Wait for the finish tasks still out."""
        while self.finishing:
            self._settle(timeout=None)

    def give_up_rest(self) -> None:
        """Slides whose rows never came complete are failures, not silence."""
        for prepared in list(self.waiting.values()):
            got = len(self.open.get(prepared.slide_id, {}))
            lost = RuntimeError(f"only {got} of {prepared.row['chunks']} chunks came")
            self._fail(prepared, explain(lost, prepared.row, "predict"))


def segment_cohort(
    run: RunDirectory,
    slides: Sequence[PreparedSlide],
    config: RunConfig,
    share: Share,
    *,
    report: Callable[[Tally], None] = lambda tally: None,
) -> tuple[Tally, list[Failure]]:
    """Predict and finish prepared slides, each written the moment it is complete."""
    run.write_arrow(run.shards, shard_table(run, slides))
    collector = Collector(run, slides, config, share, report)
    try:
        plan = lay_plan(run, config, share)
        for batch in plan.iter_batches(
            batch_size=None, batch_format="numpy", prefetch_batches=1
        ):
            collector.collect(batch)
    finally:
        collector.drain()
    collector.give_up_rest()
    return collector.tally, collector.failures
