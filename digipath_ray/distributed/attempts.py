"""The per-slide guard: errors become failure rows, and tries are bounded.

Ray retries a task for ever when its worker dies: :func:`counted` asks the ledger
how often. A try that hangs ends its own process (:func:`watched`).
"""

import contextlib
import faulthandler
import sys
import time
from collections.abc import Callable, Iterator

from ray.exceptions import RayError

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.cohort.pseudonyms import hide_files
from digipath_ray.distributed.fault import (
    PATIENCE_S,
    cause_of_error,
    pause_after,
    shorten_error,
)
from digipath_ray.distributed.ledger import Ledger, this_try
from digipath_ray.run.failure import (
    OUTSIDE,
    SLIDE,
    SUSPECT,
    Failure,
    explain_os_error,
)
from digipath_ray.slide.open import SlideError
from digipath_ray.words import redacted


class TooManyAttempts(RuntimeError):  # noqa: N818 - says what is wrong, not "Error"
    """The work killed its worker as often as it may."""

    def __init__(self, attempts: int, *, alone: bool = False) -> None:
        text = f"the process at work on it crashed or hung {attempts} times"
        super().__init__(f"{text}, the last time alone" if alone else text)
        self.attempts = attempts


class HeldUp(RuntimeError):  # noqa: N818 - says what happened, not "Error"
    """The machines around the work ended it again and again."""

    def __init__(self, cause: str, tries: int) -> None:
        super().__init__(f"{OUTSIDE[cause][0]}: {tries} tries ended of it")
        self.cause = cause


_READ_HINT = (
    "the file crashes or blocks its decoder: copy it again, convert it, or raise "
    "--read-timeout-s if the storage is slow"
)
MEMORY_HINTS = {
    "prepare": "memory ran out: raise --mask-mpp, or use a machine with more",
    "read": "memory ran out: lower --readers or --chunk-cells",
    "predict": "memory ran out: lower --batch-size or --chunk-cells",
    "finish": "memory ran out: lower --finishers or raise --downsample",
    "measure": "memory ran out: use a machine with more",
}
HINTS = {
    "prepare": _READ_HINT,
    "read": _READ_HINT,
    "predict": "most often " + MEMORY_HINTS["predict"],
    "finish": "most often " + MEMORY_HINTS["finish"],
    "measure": "most often " + MEMORY_HINTS["measure"],
}
"""Step -> what to do about a slide whose processes end at it."""


@contextlib.contextmanager
def counted(ledger: Ledger, work: str, *, limit: int) -> Iterator[None]:
    """Count this try at a piece of work; a clean exit forgets all tries.

    Tries that ended through no fault of the work do not count: a pause follows them.

    Raises:
        TooManyAttempts: ``limit`` earlier tries have not ended.
        HeldUp: what is around the work has ended it for PATIENCE_S.
    """
    earlier = ledger.begin(work, limit, this_try())
    if earlier.crashes >= limit:
        raise TooManyAttempts(earlier.crashes)
    if earlier.outside:
        pause, waited = pause_after(len(earlier.outside))
        if waited > PATIENCE_S:
            ledger.end(work)
            raise HeldUp(earlier.outside[-1], len(earlier.outside))
        time.sleep(pause)
    try:
        yield
    finally:  # an exception is an answer too; only a crash leaves the try standing
        ledger.end(work)


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[Callable[[], None]]:
    """End this process if neither exit nor a call of the yielded function comes.

    The watcher is a C thread: it also ends a process whose decoder hangs holding the
    interpreter's lock, after writing every thread's stack to the worker's log.
    """

    def rewind() -> None:
        log_file = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback_later(seconds, exit=True, file=log_file)

    rewind()
    try:
        yield rewind
    finally:
        faulthandler.cancel_dump_traceback_later()


def explain(error: BaseException, slide: SlideRow, step: str) -> Failure:
    """An error as the slide's row of the FAILURES table.

    Args:
        error: what was raised.
        slide: the slide.
        step: prepare, read, predict, finish or measure.
    """
    attempt = 1
    cause = cause_of_error(error)
    if isinstance(error, SlideError):
        hint, cause = error.hint, SLIDE
    elif isinstance(error, TooManyAttempts):
        hint, attempt, cause = HINTS[step], error.attempts, SUSPECT
    elif isinstance(error, HeldUp):
        hint, cause = OUTSIDE[error.cause][1], error.cause
    elif cause in OUTSIDE:
        hint = OUTSIDE[cause][1]
    elif isinstance(error, RayError) and cause == SUSPECT:
        hint = HINTS[step]
    elif isinstance(error, OSError):
        hint = explain_os_error(error)
    elif isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        hint = MEMORY_HINTS[step]
    else:
        hint = "run again; if it fails the same way, report it with the slide"
    speaks = isinstance(error, (ValueError, OSError, TooManyAttempts, HeldUp))
    message = str(error) if speaks else repr(error)
    if isinstance(error, RayError):
        message = shorten_error(error)
    return Failure(
        slide_id=slide.slide_id,
        path=slide.path,
        patient_id=slide.patient_id,
        step=step,
        attempt=attempt,
        error=redacted(hide_files(message, slide)),
        hint=hint,
        cause=cause,
    )
