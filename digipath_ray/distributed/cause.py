"""What went wrong, from an error that Ray hands to the driver.

Its text is the worker's tracebacks, one after the other, and below them advice of
Ray's own about retries.
"""

import re

CAUSED = "The above exception was the direct cause of the following exception:"
COLOR = re.compile("\x1b\\[[0-9;]*m")


def cause_of(error: BaseException) -> str:
    """The first exception of a chain in one line, as ``ValueError: what was wrong``."""
    # Ray Train keeps the errors of its workers beside a text that does not name them.
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    text = COLOR.sub("", str(error)).partition(CAUSED)[0]
    lines = text.rstrip().splitlines()
    # The frames of a traceback are indented; what follows the last is the message.
    framed = [i for i, line in enumerate(lines) if line[:1].isspace()]
    message = [line.strip() for line in lines[framed[-1] + 1 if framed else 0 :]]
    return " ".join(filter(None, message)) or repr(error)
