"""Whose fault it is that work ended: the slide's, or that of the machines around it.

What is no slide's fault passes: it is waited for, with growing pauses and a bound, and
tried again. A process that ended without a word leaves its slide suspect: it is to be
tried alone, in a fresh process, before it is blamed.
"""

import errno
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as of_ray
from ray._private.state import state
from ray.core.generated import common_pb2, gcs_pb2

from digipath_ray.distributed.cause import cause_of
from digipath_ray.run.failure import OUTSIDE, SLIDE, SUSPECT
from digipath_ray.words import format_duration

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
"""Each pause is twice as long as the one before."""
PATIENCE_S = 600.0
"""How long all pauses together are, as long as nothing succeeds in between."""
NOTICE_S = 3.0
"""Seconds after which Ray has noticed that a process has ended."""
OWN_SHARE = 0.5
"""Share of a node's memory from which the process that Ray killed was to blame."""
USED = re.compile(
    r"\(IP: (?P<ip>[^,]+),.*?(?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB limit", re.S
)
THRESHOLD = re.compile(r"threshold of \d+B \((?P<percent>[\d.]+)%")
OWN = re.compile(r"actual memory used=(?P<own>[\d.]+)GB")
LOST = (
    of_ray.NodeDiedError,
    of_ray.LocalRayletDiedError,
    of_ray.OwnerDiedError,
    of_ray.ObjectLostError,
    of_ray.ActorUnavailableError,
    of_ray.RpcError,
    of_ray.RuntimeEnvSetupError,
)
FULL = (errno.ENOSPC, errno.EDQUOT)
AWAY = (
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
"""What a file system of the network says when its server does not answer."""


def cause_of_error(error: BaseException) -> str:
    """What an error is to be blamed on: SLIDE, SUSPECT or one of OUTSIDE."""
    if isinstance(error, of_ray.OutOfMemoryError):
        return cause_of_kill(str(error))
    if isinstance(error, LOST):
        return "node"
    if isinstance(error, of_ray.OutOfDiskError):
        return "disk"
    if isinstance(error, of_ray.ObjectStoreFullError):
        return "store"
    if isinstance(error, of_ray.RayTaskError):
        inner = error.cause if isinstance(error.cause, BaseException) else None
        return SLIDE if inner is None else cause_of_error(inner)
    if isinstance(error, of_ray.RayError):
        return SUSPECT
    if isinstance(error, OSError):
        return cause_of_os_error(error)
    return SUSPECT if isinstance(error, MemoryError) else SLIDE


def cause_of_os_error(error: OSError) -> str:
    """A full or unreachable disk is no slide's fault, all else is the slide's."""
    if error.errno in FULL:
        return "disk"
    if error.errno in AWAY or isinstance(error, (ConnectionError, TimeoutError)):
        return "storage"
    return SUSPECT if error.errno == errno.ENOMEM else SLIDE


def cause_of_kill(text: str) -> str:
    """Whose memory it was, from what Ray says of a process that it killed for it."""
    total, own = USED.search(text), OWN.search(text)
    if total and own and float(own["own"]) >= OWN_SHARE * float(total["limit"]):
        return SUSPECT
    return "memory"


def cause_of_end(worker: str, node: str) -> str:
    """What a worker process has ended of, by its id and that of its node in hex.

    Ray keeps this in a table that has no public reader.
    """
    until = time.monotonic() + NOTICE_S
    while True:
        if node not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}:
            return "node"
        for row in state._connect_and_get_accessor().get_worker_table():
            data = gcs_pb2.WorkerTableData.FromString(row)
            if data.worker_address.worker_id.hex() != worker or data.is_alive:
                continue
            if data.exit_type == common_pb2.WorkerExitType.NODE_OUT_OF_MEMORY:
                return cause_of_kill(data.exit_detail)
            return SUSPECT
        if time.monotonic() > until:
            return SUSPECT
        time.sleep(0.2)


def shorten_error(error: BaseException) -> str:
    """What an error says of the machine, in one line without Ray's advice."""
    text = str(error)
    if isinstance(error, of_ray.OutOfMemoryError) and (found := USED.search(text)):
        limit = THRESHOLD.search(text)
        above = f"; Ray ends processes above {limit['percent']} %" if limit else ""
        node = f"{found['used']} of {found['limit']} GB of {found['ip']} are used"
        return f"{node}{above}"
    return cause_of(error)[:300]


def fresh_process() -> dict[str, Any]:
    """Options with which Ray gives a task a process that has done nothing before."""
    return {"runtime_env": {"env_vars": {"DIGIPATH_ALONE": uuid.uuid4().hex}}}


def pause_after(ends: int) -> tuple[float, float]:
    """Seconds to wait after so many ends, and how long all pauses are with it."""
    pauses = [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(ends)]
    return pauses[-1], sum(pauses)


class Patience:
    """Waits for what is no slide's fault, with growing pauses and a bound.

    Attributes:
        met: how often what was waited for, for metrics.json.
    """

    def __init__(
        self,
        limit_s: float | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Full of patience: PATIENCE_S, unless told otherwise."""
        self.met: Counter[str] = Counter()
        self._limit_s = PATIENCE_S if limit_s is None else limit_s
        self._sleep = sleep
        self._pauses = 0

    def wait(self, cause: str, sign: str) -> bool:
        """Say what is waited for, and pause; False if it has been waited long enough.

        Args:
            cause: one of OUTSIDE.
            sign: how it showed itself.
        """
        self.met[cause] += 1
        pause, waited = pause_after(self._pauses + 1)
        left = self._limit_s - (waited - pause)
        if left <= 0:
            return False
        pause = min(pause, left)
        log.warning(
            "%s (%s): no slide's fault; waiting %s, then trying again (for %s in all)",
            OUTSIDE[cause][0],
            sign,
            format_duration(pause),
            format_duration(self._limit_s),
        )
        self._sleep(pause)
        self._pauses += 1
        return True

    def settle(self) -> None:
        """Something has succeeded: patience is full again."""
        self._pauses = 0
