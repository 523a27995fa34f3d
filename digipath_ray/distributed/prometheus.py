"""What a run counts, as metrics of Ray: Prometheus reads them on every node.

Ray exports a counter ``digipath_x`` as ``ray_digipath_x_total`` and a gauge as
``ray_digipath_x``, and forgets a gauge that was not set for 20 s. One recording
takes microseconds, and without Ray none does harm. How many chunks wait for the
networks is known to Ray Data: ``ray_data_operator_queued_blocks``, a block is a chunk.
"""

import functools

from ray.util.metrics import Counter, Gauge

from digipath_ray.run.status import Status
from digipath_ray.slide.open import Slide

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digipath_slides_done": ("Slides finished", ()),
    "digipath_slides_failed": ("Slides failed, by step", ("step",)),
    "digipath_patches": ("Patches through a stage: read, predict", ("stage",)),
    "digipath_busy_seconds": ("Seconds that a stage's workers worked", ("stage",)),
    "digipath_decoded_bytes": ("Bytes of pixels decoded, 3 to a network px", ()),
    "digipath_fetched_bytes": ("Bytes of slides fetched from buckets to be read", ()),
    "digipath_cache_hits": ("Slides of buckets that lay on the node already", ()),
    "digipath_cache_misses": ("Slides of buckets that had to be fetched", ()),
}
"""Name -> what it counts, and its labels."""
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "digipath_slides_left": ("Slides neither finished nor failed", ()),
    "digipath_slides_open": ("Slides of which some chunks are predicted", ()),
    "digipath_slides_finishing": ("Slides being stitched and written", ()),
    "digipath_patches_left": ("Patches to predict", ()),
    "digipath_gpu_memory_bytes": ("GPU memory that an actor holds", ()),
}
"""Name -> what it shows, and its labels."""


@functools.cache
def _counter(name: str) -> Counter:
    description, labels = COUNTERS[name]
    return Counter(name, description, labels)


@functools.cache
def _gauge(name: str) -> Gauge:
    description, labels = GAUGES[name]
    return Gauge(name, description, labels)


def count(name: str, amount: float, **labels: str) -> None:
    """Add to a counter; nothing where nothing is added."""
    if amount > 0:
        _counter(name).inc(float(amount), labels)


def show(name: str, value: float) -> None:
    """Set a gauge."""
    _gauge(name).set(float(value))


def show_driver(status: Status) -> None:
    """What the driver knows; to be called every few seconds."""
    ended = status.skipped + status.done + status.failed
    show("digipath_slides_left", max(0, status.slides - ended))
    show("digipath_slides_open", status.open_slides)
    show("digipath_slides_finishing", status.finishing)
    show("digipath_patches_left", max(0, status.patches - status.patches_done))


def count_opened(slide: Slide) -> None:
    """A reader has opened a slide."""
    if slide.version is None:  # of no bucket
        return
    fetched = slide.fetched_bytes
    count("digipath_cache_misses" if fetched else "digipath_cache_hits", 1)
    count("digipath_fetched_bytes", fetched)


def count_read(*, patches: int, nbytes: int, seconds: float) -> None:
    """A reader has read a chunk."""
    count("digipath_patches", patches, stage="read")
    count("digipath_decoded_bytes", nbytes)
    count("digipath_busy_seconds", seconds, stage="read")


def count_predicted(*, patches: int, seconds: float) -> None:
    """An actor has predicted a chunk.

    Args:
        patches: 0 where members of other actors are still to see them.
        seconds: it took.
    """
    import torch  # an actor has it; a reader would wait for it for seconds

    count("digipath_patches", patches, stage="predict")
    count("digipath_busy_seconds", seconds, stage="predict")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        show("digipath_gpu_memory_bytes", torch.cuda.memory_reserved())
