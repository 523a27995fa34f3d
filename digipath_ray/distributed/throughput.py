"""How fast a run went, and which of its stages the others waited for."""

import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from digipath_ray import __version__
from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.resources import Share
from digipath_ray.run.failure import SLIDE, Failure
from digipath_ray.run.listeners import Tally


def count_ends(
    slides: int, failures: Sequence[Failure], met: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """How the slides of this start ended: tried, finished, failed at which step.

    ``failed_by`` counts whose fault it was, ``tried_again`` how often work was tried
    again through no slide's fault, by what had ended it (``met``).
    """
    steps = Counter(failure.step for failure in failures)
    causes = Counter(failure.cause or SLIDE for failure in failures)
    return {
        "slides": slides,
        "finished": slides - len(failures),
        "failed": len(failures),
        "failed_at": dict(sorted(steps.items())),
        "failed_by": dict(sorted(causes.items())),
        "tried_again": dict(sorted((met or {}).items())),
    }


def measure(
    tally: Tally, config: RunConfig, share: Share, *, prepare_seconds: float
) -> dict[str, Any]:
    """Throughput per stage, and which stage the others waited for.

    A stage's ``busy`` is the time its workers worked over the time they were there,
    from the first patch predicted on. ``last_tenth_s`` is the time from 90 % of the
    patches to the end.
    """
    now = time.monotonic()
    begun = tally.first_patch or now
    steady = max(now - begun, 1e-9)
    read_busy, predict_busy, _ = busy(tally, now=now)
    padded = config.fills_batches(on_gpu=share.actor_gpus > 0)
    slots = tally.batch_slots if padded else tally.patches
    return {
        "patches": tally.patches,
        "predicted_share": tally.predicted / max(tally.patches, 1),
        "prepare_s": prepare_seconds,
        "start_s": begun - tally.started,
        "segment_s": now - tally.started,
        "patches_per_s": tally.patches / steady,
        "batch_fill": tally.patches / max(slots, 1),
        "batch_reduced_to": tally.reduced_to,
        "open_slides_max": tally.open_slides_max,
        "first_slide_s": _since(tally.started, tally.first_slide),
        "patches_at_first_slide": tally.patches_at_first_slide,
        "last_tenth_s": None if tally.ninety is None else now - tally.ninety,
        "read": {
            "workers": share.readers,
            "seconds": tally.read_seconds,
            "busy": read_busy,
            "mpx_per_s": tally.read_px / 1e6 / max(tally.read_seconds, 1e-9),
        },
        "predict": {
            "workers": tally.predictors,
            "on": "gpu" if share.actor_gpus > 0 else "cpu",
            "seconds": tally.predict_seconds,
            "busy": predict_busy,
        },
        "finish": {
            "seconds": tally.finish_seconds,
            "waited_for_s": tally.finish_wait_seconds,
        },
        "bottleneck": current_bottleneck(tally, now=now),
        "machine": {
            "node": platform.node(),
            "python": platform.python_version(),
            "digipath_ray": __version__,
            **{name: version(name) for name in ("ray", "torch")},
        },
    }


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else moment - start


def busy(tally: Tally, *, now: float) -> tuple[float, float, float]:
    """How busy readers and networks were, 0..1, and how long all waited for finishing.

    As shares of the time since the first patch.
    """
    steady = max(now - (tally.first_patch or now), 1e-9)
    read = tally.read_seconds / (steady * max(tally.readers, 1))
    predict = tally.predict_seconds / (steady * max(tally.predictors, 1))
    return min(read, 1.0), min(predict, 1.0), tally.finish_wait_seconds / steady


def current_bottleneck(tally: Tally, *, now: float) -> str:
    """What to add to go faster, in words."""
    read, predict, finish_wait = busy(tally, now=now)
    return bottleneck(read, predict, finish_wait=finish_wait)


def bottleneck(read_busy: float, predict_busy: float, *, finish_wait: float) -> str:
    """What to add to go faster, in words."""
    if finish_wait >= 0.2:
        return "finish: all waited for slides to be written; raise --finishers"
    if predict_busy >= 0.85:
        return "predict: the networks were never idle; more or faster GPUs would help"
    if read_busy >= predict_busy:
        return "read: the networks waited for pixels; more --readers would help"
    return "neither: too short a time to fill the pipeline"
