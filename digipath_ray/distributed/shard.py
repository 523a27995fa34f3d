"""Shards: rows of work, each a few chunks of one slide, read into rows of pixels.

A row of pixels is one chunk; its block in the object store is its own, so that it
travels the moment it is made.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digipath_ray.chunk import read_chunk
from digipath_ray.config import RunConfig
from digipath_ray.distributed.guard import (
    counted,
    explain,
    mark_failed,
    read_failed,
    watched,
)
from digipath_ray.patches import Cells
from digipath_ray.prepared import (
    PreparedSlide,
    grid_of,
    open_cohort_slide,
    read_chunks,
)
from digipath_ray.rundir import Failure, RunDirectory
from digipath_ray.schema import SHARDS
from digipath_ray.slide import Slide

CHUNKS_PER_SHARD = 4
Batch = dict[str, Any]
"""One row as Ray Data hands it: column -> array with a leading axis of 1."""


def shard_table(slides: Sequence[PreparedSlide]) -> pa.Table:
    """The SHARDS table of slides, one row per read task, slides one after another."""
    rows = [
        {
            "slide_id": slide.slide_id,
            "path": slide.row["path"],
            "slide_mpp": slide.slide_mpp,
            "first_chunk": first,
            "chunks": min(CHUNKS_PER_SHARD, slide.row["chunks"] - first),
        }
        for slide in slides
        for first in range(0, slide.row["chunks"], CHUNKS_PER_SHARD)
    ]
    return pa.Table.from_pylist(rows, schema=SHARDS)


class ShardReader:
    """Reads the chunks of one slide, which is opened at the first and stays open."""

    def __init__(self, run: RunDirectory, row: Batch, config: RunConfig) -> None:
        """Remember a row of the SHARDS table; nothing is opened yet."""
        self.run = run
        self.config = config
        self.slide_id, self.path = str(row["slide_id"]), str(row["path"])
        mpp = row["slide_mpp"]
        self.slide_mpp = None if mpp is None or np.isnan(mpp) else float(mpp)
        self.slide: Slide | None = None
        self.chunks: list[Cells] = []

    def read(self, number: int) -> Batch | Failure:
        """A chunk's row of pixels, or why it cannot be read."""
        try:
            with (
                counted(
                    self.run.attempts(f"read/{self.slide_id}.{number}"),
                    limit=self.config.compute.attempts,
                ),
                watched(self.config.compute.read_timeout_s),
            ):
                return self._read(number)
        except Exception as e:
            slide = {"slide_id": self.slide_id, "path": self.path}
            return explain(e, slide, "read")

    def _read(self, number: int) -> Batch:
        started = time.perf_counter()
        if self.slide is None:
            self.chunks = read_chunks(self.run, self.slide_id, self.config)
            self.slide = open_cohort_slide(self.path, self.slide_mpp, self.config)
        grid, cells = grid_of(self.slide, self.config), self.chunks[number]
        blocks, pixels, index = read_chunk(self.slide, grid, cells, self.config)
        seconds = time.perf_counter() - started
        return pixel_row(self.slide_id, number, blocks, pixels, index, seconds)

    def close(self) -> None:
        """Close the slide."""
        if self.slide is not None:
            self.slide.close()


def read_shard(batch: Batch, *, root: str, config: RunConfig) -> Iterator[Batch]:
    """A shard's chunks as rows of pixels; error rows once the slide has failed.

    A row per chunk in any case: Ray counts on as many when it makes lost ones again.
    """
    run = RunDirectory(root)
    row = {name: values[0] for name, values in batch.items()}
    failure = read_failed(run, str(row["slide_id"]))
    with contextlib.closing(ShardReader(run, row, config)) as reader:
        first = int(row["first_chunk"])
        for number in range(first, first + int(row["chunks"])):
            if failure is None:
                answer = reader.read(number)
                if not isinstance(answer, Failure):
                    yield answer
                    continue
                failure = answer
                mark_failed(run, failure)
            yield error_row(failure, config)


def pixel_row(
    slide_id: str,
    chunk: int,
    blocks: Cells,
    pixels: NDArray[np.uint8],
    index: NDArray[np.int64],
    seconds: float,
) -> Batch:
    """A chunk as a row: its blocks, their pixels, and the index of its patches."""
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
    return row
