"""The driver's part: rows gathered by slide, complete slides handed on to be finished.

All that a run must remember is remembered here.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.attempts import TooManyAttempts, explain
from digipath_ray.distributed.fault import Patience
from digipath_ray.distributed.ledger import Ledger, Standing
from digipath_ray.distributed.predict import BETWEEN
from digipath_ray.distributed.read import Batch
from digipath_ray.distributed.resources import Share
from digipath_ray.pipeline.chunk import ChunkSums
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import OUTSIDE, SLIDE, SUSPECT, Failure
from digipath_ray.run.listeners import RunListener, Tally
from digipath_ray.run.record import SlideRecord
from digipath_ray.slide.open import SlideError
from digipath_ray.words import count

log = logging.getLogger(__name__)


def try_finish(
    root: str,
    slide: SlideRecord,
    chunks: Sequence[ChunkSums],
    config: RunConfig,
    seconds: float,
    devices: Sequence[str],
) -> tuple[float, Failure | None]:
    """Seconds taken to finish a slide, and why it could not be."""
    # Here, as the driver finishes no slide itself.
    from digipath_ray.pipeline.finish import finish_slide

    started = time.perf_counter()
    run = RunDirectory(root)
    try:
        finish_slide(run, slide, chunks, config, seconds=seconds, devices=devices)
    except Exception as e:
        return time.perf_counter() - started, explain(e, slide, "finish")
    return time.perf_counter() - started, None


@dataclass(frozen=True)
class Finish:
    """A complete slide on its way to be finished."""

    slide: SlideRecord
    chunks: ray.ObjectRef
    seconds: float
    devices: list[str]


class Collector:
    """Gathers rows by slide on the driver and hands complete slides to finish tasks.

    Holds the slides in flight and nothing of those finished. A slide whose process
    ended, or that something around it ended, is one of the ``suspects``: it has not
    failed yet, unless it was ``alone``.
    """

    def __init__(
        self,
        run: RunDirectory,
        slides: Sequence[SlideRecord],
        config: RunConfig,
        share: Share,
        listener: RunListener,
        tally: Tally,
        ledger: Ledger,
        patience: Patience,
        *,
        alone: bool = False,
        before: int = 0,
    ) -> None:
        self.run = run
        self.patience = patience
        self.suspects: dict[str, Failure] = {}
        self._alone, self._before = alone, before
        self._met: dict[str, int] = {}
        self._patches: Counter[str] = Counter()
        self.ledger = ledger
        self.config = config
        self.listener = listener
        self.waiting = {s.slide_id: s for s in slides}
        self.open: dict[str, dict[int, ChunkSums]] = {}
        self.seconds: dict[str, float] = {}
        self.devices: dict[str, set[str]] = {}
        self.finishing: dict[ray.ObjectRef, Finish] = {}
        self.tally = tally
        tally.readers, tally.predictors = share.readers, share.actors * config.pools
        self._actor_gpus = share.actor_gpus
        self._settings = ray.put(config)
        self._finish = ray.remote(num_cpus=share.finish_cpus, max_retries=3)(try_finish)

    def note_standing(self, mine: Standing) -> None:
        """Take note of actors that have joined."""
        if self._actor_gpus > 0:
            actors = round(mine.holds / self._actor_gpus)
            self.tally.predictors = max(self.tally.predictors, actors)
        for cause, times in mine.met:
            if times > self._met.get(cause, 0):
                self._met[cause] = times
                log.warning(
                    "%s: no slide's fault; what it ended is tried again after a pause "
                    "(%s so far)",
                    OUTSIDE[cause][0],
                    count(times, "time"),
                )

    def collect(self, batch: Batch) -> None:
        """Take in the rows of a batch."""
        for i in range(len(batch["slide_id"])):
            self._take({name: values[i] for name, values in batch.items()})
            self.listener.tallied(self.tally)
        self._settle(timeout=0)
        self._note_open()

    def _note_open(self) -> None:
        """Tell the tally of the slides in flight."""
        finishing = [work.slide.slide_id for work in self.finishing.values()]
        self.tally.open_slides = len(self.open)
        self.tally.finishing = len(finishing)
        self.tally.progress = {
            **dict.fromkeys(finishing, 1.0),
            **{
                slide_id: len(chunks) / self.waiting[slide_id].chunks
                for slide_id, chunks in self.open.items()
            },
        }

    def _take(self, row: dict[str, Any]) -> None:
        slide_id = str(row["slide_id"])
        slide = self.waiting.get(slide_id)
        if slide is None:  # finished or failed
            return
        if row["error"] != "":
            self._fail(slide, Failure(**json.loads(str(row["error"]))))
            return
        chunks = self.open.setdefault(slide_id, {})
        number = int(row["chunk"])
        if number in chunks:  # Ray made the row a second time
            return
        self._count(row)
        seconds = float(row["read_seconds"] + row["predict_seconds"])
        self.seconds[slide_id] = self.seconds.get(slide_id, 0.0) + seconds
        devices = str(row["device"]).split(BETWEEN)
        self.devices.setdefault(slide_id, set()).update(devices)
        # Copied: a view would pin the row's block in the object store.
        chunks[number] = ChunkSums(
            chunk=number,
            blocks=np.array(row["blocks"]),
            sums=np.array(row["sums"]),
            weight=np.array(row["weight"]),
        )
        if len(chunks) == slide.chunks:
            self._start_finish(slide)

    def _count(self, row: dict[str, Any]) -> None:
        tally, batch = self.tally, self.config.compute.batch_size
        patches = int(row["patches"])
        self._patches[str(row["slide_id"])] += patches
        if tally.first_patch is None:
            tally.first_patch = time.monotonic() - float(row["predict_seconds"])
        tally.patches += patches
        self._note_batch(int(row["reduced_to"]))
        tally.predicted += float(row["predicted"])
        if tally.ninety is None and tally.patches >= 0.9 * tally.planned:
            tally.ninety = time.monotonic()
        tally.batch_slots += -(-patches // batch) * batch
        tally.read_seconds += float(row["read_seconds"])
        tally.read_px += int(row["read_px"])
        tally.predict_seconds += float(row["predict_seconds"])
        tally.open_slides_max = max(tally.open_slides_max, len(self.open))

    def _note_batch(self, reduced_to: int) -> None:
        """Say once of each size that memory was too short for larger batches."""
        before = self.tally.reduced_to
        if reduced_to and (before is None or reduced_to < before):
            self.tally.reduced_to = reduced_to
            log.warning(
                "memory of a device was short: batches of %d in place of %d patches; "
                "--batch-size %d saves the tries",
                reduced_to,
                self.config.compute.batch_size,
                reduced_to,
            )

    def _fail(self, slide: SlideRecord, failure: Failure) -> None:
        failure = replace(failure, path=slide.path, patient_id=slide.patient_id)
        if failure.cause == SUSPECT and self._alone:
            failure = self._blame(failure)
        if failure.cause != SLIDE:
            self.suspects[slide.slide_id] = failure
            self._forget(slide)
            self.tally.patches -= self._patches.pop(slide.slide_id, 0)
            self.ledger.fail(failure)  # so that the rest of it is not read
            return
        log.warning(
            "%s failed at %s: %s",
            failure.slide_id,
            failure.step,
            failure.error,
            extra={"slide_id": failure.slide_id, "step": failure.step},
        )
        self.listener.failed(failure)
        self._forget(slide)
        self.tally.failed += 1
        self.ledger.fail(failure)  # so that the rest of it is not read

    def _blame(self, failure: Failure) -> Failure:
        """The slide's own failure: it has failed alone too."""
        tries = self._before + failure.attempt
        if failure.error == str(TooManyAttempts(failure.attempt)):
            error = str(TooManyAttempts(tries, alone=True))
            failure = replace(failure, error=error, attempt=tries)
        return replace(failure, cause=SLIDE)

    def _forget(self, slide: SlideRecord) -> None:
        for held in (self.waiting, self.open, self.seconds, self.devices):
            held.pop(slide.slide_id, None)

    def _start_finish(self, slide: SlideRecord) -> None:
        """Hand a complete slide on; waits while as many as allowed are finishing."""
        started = time.monotonic()
        while len(self.finishing) >= self.config.compute.finishers:
            self._settle(timeout=None)
        self.tally.finish_wait_seconds += time.monotonic() - started
        slide_id = slide.slide_id
        chunks = list(self.open.pop(slide_id).values())
        self.waiting.pop(slide_id)
        seconds = self.seconds.pop(slide_id)
        devices = sorted(self.devices.pop(slide_id))
        work = Finish(slide, ray.put(chunks), seconds, devices)
        self.finishing[self._submit(work)] = work

    def _submit(self, work: "Finish") -> ray.ObjectRef:
        root = str(self.run.root)
        return self._finish.remote(
            root, work.slide, work.chunks, self._settings, work.seconds, work.devices
        )

    def _settle(self, *, timeout: float | None) -> None:
        """Take note of finish tasks that have ended."""
        refs = list(self.finishing)
        if not refs:
            return
        for ref in ray.wait(refs, num_returns=1, timeout=timeout)[0]:
            work = self.finishing.pop(ref)
            slide = work.slide
            try:
                seconds, failure = ray.get(ref)
            except ray.exceptions.RayError as e:
                seconds, failure = 0.0, explain(e, slide, "finish")
            self.tally.finish_seconds += seconds
            if failure is not None:
                self._take_unfinished(work, failure)
                continue
            self.patience.settle()
            self.tally.slides += 1
            slide_id = slide.slide_id
            log.info("%s finished", slide_id, extra={"slide_id": slide_id})
            if self.tally.first_slide is None:
                self.tally.first_slide = time.monotonic()
                self.tally.patches_at_first_slide = self.tally.patches
            self.listener.tallied(self.tally)

    def _take_unfinished(self, work: "Finish", failure: Failure) -> None:
        """Try again what was no slide's fault: its chunks are still there."""
        cause = failure.cause or SLIDE
        if cause in OUTSIDE and self.patience.wait(cause, failure.error):
            self.finishing[self._submit(work)] = work
            return
        self._fail(work.slide, failure)

    def drain(self) -> None:
        """Wait for the finish tasks still out."""
        while self.finishing:
            self._settle(timeout=None)
        self._note_open()

    def give_up_rest(self, why: str, hint: str) -> None:
        """Slides that neither finished nor failed have failed, not vanished."""
        for slide in list(self.waiting.values()):
            got = len(self.open.get(slide.slide_id, {}))
            lost = SlideError(f"{got} of {slide.chunks} chunks: {why}", hint)
            self._fail(slide, explain(lost, slide, "predict"))
