"""Shards: rows of work, each a few chunks of one slide, read into rows of pixels.

A row of pixels is one chunk; its block in the object store is its own, so that it
travels the moment it is made.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.context import Contexts, blocks_across
from digipath_ray.distributed.attempts import counted, explain, watched
from digipath_ray.distributed.ledger import Ledger
from digipath_ray.distributed.prometheus import count_opened, count_read
from digipath_ray.patches import Cells, Grid
from digipath_ray.pipeline.chunk import read_chunk, read_contexts
from digipath_ray.pipeline.prepare import grid_of, open_cohort_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.patch_table import read_chunks
from digipath_ray.run.record import SlideRecord
from digipath_ray.schema import SHARDS
from digipath_ray.slide.open import Slide
from digipath_ray.storage.files import is_url

CHUNKS_PER_SHARD = 4
"""Of a slide on a disk; of one in a bucket as many as :func:`cut_shards` says."""
TURNS = 2
"""Turns that each reader gets, at least, at the slides of a bucket."""
Batch = dict[str, Any]
"""One row as Ray Data hands it: column -> array with a leading axis of 1."""


def shard_table(slides: Sequence[SlideRecord], *, readers: int) -> pa.Table:
    """The SHARDS table of slides, one row per read task, slides one after another."""
    rows = [
        {
            "slide_id": slide.slide_id,
            "path": slide.path,
            "slide_mpp": slide.mpp,
            "version": slide.version or "",
            "digest": slide.digest or "",
            "stains": stain_text(slide),
            "first_chunk": first,
            "chunks": chunks,
        }
        for slide, first, chunks in cut_shards(slides, readers=readers)
    ]
    return pa.Table.from_pylist(rows, schema=SHARDS)


def stain_text(slide: SlideRecord) -> str:
    """The stains that a slide is normalized from, as JSON; empty if it is not."""
    found = slide.normalized_from
    return "" if found is None else found.to_text()


def cut_shards(
    slides: Sequence[SlideRecord], *, readers: int
) -> Iterator[tuple[SlideRecord, int, int]]:
    """Slides as (slide, first chunk, chunks), each to be read by one task.

    A slide in a bucket must be fetched by every node that reads of it, so while there
    is much to do a task reads a whole one. Towards the end the parts become smaller, so
    that no reader is left with a whole slide while the others have nothing.
    """
    left = sum(slide.chunks for slide in slides)
    for slide in slides:
        first, last = 0, slide.chunks
        while first < last:
            size = CHUNKS_PER_SHARD
            if is_url(slide.path):
                size = max(size, -(-left // (TURNS * readers)))
            size = min(size, last - first)
            yield slide, first, size
            first, left = first + size, left - size


class ShardReader:
    """Reads the chunks of one slide, which is opened at the first and stays open."""

    def __init__(
        self, run: RunDirectory, row: Batch, config: RunConfig, ledger: Ledger
    ) -> None:
        """Remember a row of the SHARDS table; nothing is opened yet."""
        self.run = run
        self.config = config
        self.ledger = ledger
        self.slide_id, self.path = str(row["slide_id"]), str(row["path"])
        mpp = row["slide_mpp"]
        self.slide_mpp = None if mpp is None or np.isnan(mpp) else float(mpp)
        self.version = str(row["version"]) or None
        self.digest = str(row["digest"]) or None
        self.stains = str(row["stains"])
        self.slide: Slide | None = None
        self.grid: Grid | None = None
        self.chunks: list[Cells] = []

    def read(self, number: int) -> Batch | Failure:
        """A chunk's row of pixels, or why it cannot be read."""
        try:
            with (
                counted(
                    self.ledger,
                    f"read {self.slide_id} {number}",
                    limit=self.config.compute.attempts,
                ),
                watched(self.config.compute.read_timeout_s) as rewind,
            ):
                return self._read(number, rewind)
        except Exception as e:
            slide = SlideRow(slide_id=self.slide_id, path=self.path)
            return explain(e, slide, "read")

    def _read(self, number: int, on_progress: Callable[[], None]) -> Batch:
        started = time.perf_counter()
        if self.slide is None or self.grid is None:
            self.chunks = read_chunks(self.run, self.slide_id, self.config)
            self.slide = open_cohort_slide(
                self.path,
                self.slide_mpp,
                self.config,
                version=self.version,
                digest=self.digest,
                on_progress=on_progress,
            )
            count_opened(self.slide)
            self.grid = grid_of(self.slide, self.config)
        cells = self.chunks[number]
        blocks, pixels, index = read_chunk(self.slide, self.grid, cells, self.config)
        contexts = read_contexts(self.slide, self.grid, cells, self.config)
        seconds = time.perf_counter() - started
        count_read(patches=len(cells), nbytes=pixels.nbytes, seconds=seconds)
        row = pixel_row(
            self.slide_id, number, blocks, pixels, index, seconds, stains=self.stains
        )
        return row | context_columns(contexts)

    def close(self) -> None:
        """Close the slide."""
        if self.slide is not None:
            self.slide.close()


def read_shard(
    batch: Batch, *, root: str, config: RunConfig, ledger: Ledger
) -> Iterator[Batch]:
    """A shard's chunks as rows of pixels; error rows once the slide has failed.

    A row per chunk in any case: Ray counts on as many when it makes lost ones again.
    """
    run = RunDirectory(root)
    row = {name: values[0] for name, values in batch.items()}
    failure = ledger.failure(str(row["slide_id"]))
    with contextlib.closing(ShardReader(run, row, config, ledger)) as reader:
        first = int(row["first_chunk"])
        for number in range(first, first + int(row["chunks"])):
            if failure is None:
                row_or_failure = reader.read(number)
                if not isinstance(row_or_failure, Failure):
                    yield row_or_failure
                    continue
                failure = row_or_failure
                ledger.fail(failure)
            yield error_row(failure, config)


def pixel_row(
    slide_id: str,
    chunk: int,
    blocks: Cells,
    pixels: NDArray[np.uint8],
    index: NDArray[np.int64],
    seconds: float,
    *,
    stains: str = "",
) -> Batch:
    """A chunk as a row: its blocks, their pixels, and the index of its patches.

    ``stains`` are the slide's, if it is to be normalized (:func:`stain_text`).
    """
    return {
        "slide_id": np.array([slide_id]),
        "chunk": np.array([chunk]),
        "error": np.array([""]),
        "blocks": blocks[None],
        "pixels": pixels[None],
        "index": index[None],
        "stains": np.array([stains]),
        "read_seconds": np.array([seconds]),
        "predict_seconds": np.array([0.0]),
        "device": np.array([""]),
        "reduced_to": np.array([0]),
    }


def context_columns(contexts: Contexts) -> Batch:
    """The contexts of a chunk's patches as columns of its row."""
    columns: Batch = {}
    for factor, (pixels, index) in contexts.items():
        columns[f"context{factor}_pixels"] = pixels[None]
        columns[f"context{factor}_index"] = index[None]
    return columns


def contexts_in(row: Batch, config: RunConfig) -> Contexts:
    """The contexts in a chunk's row, those that the members ask for."""
    return {
        factor: (row[f"context{factor}_pixels"][0], row[f"context{factor}_index"][0])
        for factor in config.contexts
    }


def error_row(failure: Failure, config: RunConfig) -> Batch:
    """A row of the same columns that carries a failure and nothing else."""
    stride, k = config.grid.stride_px, config.grid.blocks_per_side
    row = pixel_row(
        failure.slide_id,
        -1,
        np.empty((0, 2), np.int32),
        np.empty((0, stride, stride, 3), np.uint8),
        np.empty((0, k, k), np.int64),
        0.0,
    )
    row["error"] = np.array([json.dumps(asdict(failure))])
    contexts = {
        factor: (
            np.empty((0, stride // factor, stride // factor, 3), np.uint8),
            np.empty((0, *2 * (blocks_across(config.grid, factor),)), np.int64),
        )
        for factor in config.contexts
    }
    return row | context_columns(contexts)
