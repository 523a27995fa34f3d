"""The members as a stage of the plan: rows of pixels into rows of weighted sums."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.distributed.attempts import TooManyAttempts, counted, explain
from digipath_ray.distributed.ledger import Ledger, Place
from digipath_ray.distributed.prometheus import count_predicted
from digipath_ray.distributed.read import Batch, contexts_in, error_row
from digipath_ray.distributed.resources import Share
from digipath_ray.machine import keep_freed_memory
from digipath_ray.networks.ensemble import MemberMaps, combine_members
from digipath_ray.pipeline.chunk import sum_chunk
from digipath_ray.stain.estimate import StainEstimate

if TYPE_CHECKING:
    from digipath_ray.networks.predict import EnsemblePredictor

BETWEEN = "\n"
"""Between the names of devices in a row."""


class PredictStage:
    """An actor that holds members and maps chunks of pixels to their posteriors.

    The shared pool has one stage holding all members. With a pool per member the stages
    are chained, and the last one drops the pixels.
    """

    def __init__(
        self,
        ledger: Ledger,
        members: Sequence[MemberSpec],
        last: bool,
        config: RunConfig,
        share: Share,
    ) -> None:
        self.ledger = ledger
        self.config = config
        self.last = last
        self.pool = config.members.index(members[0])
        self.place = Place(ledger, share.actor_gpus)
        keep_freed_memory()
        self.ensemble = self._load(members, share)

    def _load(self, members: Sequence[MemberSpec], share: Share) -> "EnsemblePredictor":
        """The members; Ray restarts for ever an actor that dies of loading them."""
        # The driver lays the plan without torch; only an actor waits for it.
        from digipath_ray.networks.predict import EnsemblePredictor

        names = "-".join(m.name for m in members)
        limit = self.config.compute.attempts * share.actors
        try:
            with counted(self.ledger, f"load {self.pool}", limit=limit):
                return EnsemblePredictor(
                    members,
                    self.config,
                    device="cuda" if share.actor_gpus > 0 else "cpu",
                    threads=share.actor_threads,
                )
        except TooManyAttempts as e:
            raise MemoryError(
                f"loading {names} ended its process {e.attempts} times, most often "
                "since memory ran out: fewer --actors, or --pools per-member"
            ) from e

    def __call__(self, batch: Batch) -> Batch:
        """One chunk: its members' maps added, and summed up by the last stage."""
        if batch["error"][0] != "":
            return self._pass_error(batch)
        self.place.keep()
        slide_id, chunk = str(batch["slide_id"][0]), int(batch["chunk"][0])
        work = f"predict {self.pool} {slide_id} {chunk}"
        limit = self.config.compute.attempts
        try:
            with counted(self.ledger, work, limit=limit):
                return self._predict(batch)
        except Exception as e:
            failure = explain(e, SlideRow(slide_id=slide_id, path=""), "predict")
            return self._pass_error(error_row(failure, self.config))

    def _predict(self, batch: Batch) -> Batch:
        started = time.perf_counter()
        try:
            maps = self.ensemble.predict(
                batch["pixels"][0],
                batch["index"][0],
                _maps_of(batch),
                _stain_of(batch),
                contexts_in(batch, self.config),
            )
        except RuntimeError as e:
            self.ensemble.end_process_if_device_is_lost(e)
            raise
        row = self._sum(batch, maps) if self.last else {**batch, **_columns(maps)}
        seconds = time.perf_counter() - started
        row["predict_seconds"] = batch["predict_seconds"] + seconds
        row["device"] = np.array([self._devices(str(batch["device"][0]))])
        reduced = (int(batch["reduced_to"][0]), self.ensemble.reduced_to or 0)
        row["reduced_to"] = np.array([min(filter(None, reduced), default=0)])
        patches = len(batch["index"][0]) if self.last else 0
        count_predicted(patches=patches, seconds=seconds)
        return row

    def _devices(self, before: str) -> str:
        """The names of the pools' devices up to this one, sorted."""
        names = {*before.split(BETWEEN), self.ensemble.device_name} - {""}
        return BETWEEN.join(sorted(names))

    def _sum(self, row: Batch, maps: MemberMaps) -> Batch:
        """The chunk's weighted sums per block, in place of its pixels and patches."""
        values = combine_members(maps, self.config)
        chunk, blocks, index = int(row["chunk"][0]), row["blocks"][0], row["index"][0]
        part = sum_chunk(values, blocks, index, chunk, self.config)
        predicted = float(maps.predicted.mean(axis=0).sum())
        return self._final_row(
            row, part.sums, part.weight, patches=len(index), predicted=predicted
        )

    def _pass_error(self, batch: Batch) -> Batch:
        """The error row in the columns that the next stage, or the driver, expects."""
        grid = self.config.grid
        if not self.last:
            empty = np.empty((1, 0, grid.hm_patch, grid.hm_patch), np.float32)
            augmented = len(self.config.ensemble.tta) > 1
            classes = None
            if self.config.class_channels:
                kept = len(self.config.class_channels)
                classes = np.empty((kept, *empty.shape[1:]), np.float32)
            maps = MemberMaps(
                means=empty,
                variances=empty if augmented else None,
                predicted=np.empty((1, 0), np.bool_),
                seen=np.empty((1, 0), np.bool_),
                classes=classes,
            )
            return {**batch, **_columns(maps)}
        side = grid.hm_stride
        sums = np.empty((len(self.config.summed), 0, side, side), np.float32)
        weight = np.empty((0, side, side), np.float32)
        return self._final_row(batch, sums, weight, patches=0, predicted=0.0)

    @staticmethod
    def _final_row(
        row: Batch,
        sums: NDArray[np.float32],
        weight: NDArray[np.float32],
        *,
        patches: int,
        predicted: float,
    ) -> Batch:
        kept = ("slide_id", "chunk", "error", "blocks", "read_seconds")
        return {
            **{name: row[name] for name in kept},
            "sums": sums[None],
            "weight": weight[None],
            "patches": np.array([patches]),
            "predicted": np.array([predicted]),
            "read_px": np.array([row["pixels"].size // 3]),
            "predict_seconds": row["predict_seconds"],
            "device": row["device"],
            "reduced_to": row["reduced_to"],
        }


def _columns(maps: MemberMaps) -> Batch:
    """Maps of the members so far as columns of a row."""
    row = {
        "means": maps.means[None],
        "predicted": maps.predicted[None],
        "seen": maps.seen[None],
    }
    if maps.variances is not None:
        row["variances"] = maps.variances[None]
    if maps.classes is not None:
        row["classes"] = maps.classes[None]
    return row


def _stain_of(row: Batch) -> StainEstimate | None:
    """The stains that a row's slide is normalized from; None if it is not."""
    text = str(row["stains"][0])
    return StainEstimate.from_text(text) if text else None


def _maps_of(row: Batch) -> MemberMaps | None:
    """The maps of the pools before this one; None in the first."""
    if "means" not in row:
        return None
    variances = row["variances"][0] if "variances" in row else None
    return MemberMaps(
        means=row["means"][0],
        variances=variances,
        predicted=row["predicted"][0],
        seen=row["seen"][0],
        classes=row["classes"][0] if "classes" in row else None,
    )
