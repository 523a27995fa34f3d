"""Storage that does not answer: what waits for it gives up after a while."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result], what: str) -> Result:
    """What ``work`` returns, or raises, if it does so in time.

    A call that the kernel holds up cannot be ended: its thread is left behind, and ends
    with the process at the latest.

    Args:
        seconds: how long to wait.
        work: reads a file.
        what: name of the file, for the message.

    Raises:
        TimeoutError: it has not ended in time. It is an OSError.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as e:  # raised where it is waited for
            future.set_exception(e)

    # No ThreadPoolExecutor: at exit it waits for its threads.
    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # an error of the work's own
            raise
        raise TimeoutError(f"{what} has not answered for {seconds:g} s") from None
