"""The per-slide guard: errors become failure rows, and tries are bounded.

Ray retries a task for ever when its worker dies: :func:`counted` asks the ledger
how often. A try that hangs ends its own process (:func:`watched`).
"""

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.distributed.ledger import Ledger
from digipath_ray.run.failure import Failure, explain_os_error
from digipath_ray.slide.open import SlideError


class TooManyAttempts(RuntimeError):  # noqa: N818 - says what is wrong, not "Error"
    """The work killed its worker as often as it may."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"the process at work on it crashed or hung {attempts} times")
        self.attempts = attempts


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

    Raises:
        TooManyAttempts: ``limit`` earlier tries have not ended.
    """
    earlier = ledger.begin(work, limit)
    if earlier >= limit:
        raise TooManyAttempts(earlier)
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
    if isinstance(error, SlideError):
        hint = error.hint
    elif isinstance(error, TooManyAttempts):
        hint, attempt = HINTS[step], error.attempts
    elif isinstance(error, OSError):
        hint = explain_os_error(error)
    elif isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        hint = MEMORY_HINTS[step]
    else:
        hint = "run again; if it fails the same way, report it with the slide"
    speaks = isinstance(error, (ValueError, OSError, TooManyAttempts))
    message = str(error) if speaks else repr(error)
    return Failure(
        slide_id=slide.slide_id,
        path=slide.path,
        patient_id=slide.patient_id,
        step=step,
        attempt=attempt,
        error=message,
        hint=hint,
    )
