"""Why a run or a slide failed, and what to do about it."""

import errno
from dataclasses import dataclass

SLIDE, SUSPECT = "slide", "suspect"
"""What a failure is to be blamed on: the slide; or it, once it has failed alone."""
OUTSIDE = {
    "memory": (
        "memory is short",
        "free memory on the nodes, or lower --cpus or --readers, then run again",
    ),
    "node": ("a node was lost", "wait for the nodes, then run again"),
    "disk": (
        "the disk is full",
        "the disk is full: free space or move the run, then run again",
    ),
    "storage": (
        "the storage does not answer",
        "check the storage and the network, then run again",
    ),
    "store": (
        "Ray's object store is full",
        "lower --readers or --chunk-cells, or give Ray's folder more disk "
        "(RAY_TMPDIR), then run again",
    ),
}
"""Else: cause -> what it is, and what to do. No slide's fault: the rest may go on."""
STOPPED = 3
"""Exit status of what ended early through no slide's fault."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunError(ValueError):
    """A run cannot start as asked; the message says what to do."""


class RunStopped(RunError):  # noqa: N818 - says what happened, not "Error"
    """A run ended early through no slide's fault; what was finished stays."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A row of the FAILURES table; ``cause`` is SLIDE or one of OUTSIDE."""

    slide_id: str
    path: str
    patient_id: str | None
    step: str
    attempt: int
    error: str
    hint: str
    cause: str | None = SLIDE


def explain_os_error(error: OSError) -> str:
    """What a user can do about a failed write or read."""
    hint = getattr(error, "hint", None)
    if hint is not None:
        return str(hint)
    if error.errno in DISK_FULL:
        return "the disk is full: free space or move the run, then run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "not permitted: check the folder's owner and mode"
    return "check the disk and the path, then run again"
