"""Load limits: requests per address, and concurrent decodes."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from digipath_ray.machine import allowance

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Load limits of the server.

    Attributes:
        decodes: threads that read slides and maps.
        line: queued requests for a thread; more are rejected as busy.
        rate: sustained requests per second per address.
        burst: burst of requests per address: many screens of tiles.
        streams: concurrent event streams.
        logins: login attempts per address and minute.
    """

    decodes: int = field(
        default_factory=lambda: max(4, min(16, int(allowance().cores)))
    )
    line: int = 512
    rate: float = 400.0
    burst: int = 2000
    streams: int = 64
    logins: int = 10


class Rate:
    """Token bucket per address: burst size and sustained rate."""

    MOST_ADDRESSES = 4096

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, address: str) -> bool:
        """Consume a request of an address; False if over the limit."""
        now = self._clock()
        left = self._has(address, now)
        self._left.pop(address, None)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > self.MOST_ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1

    def has_left(self, address: str) -> bool:
        """Whether an address is within the limit, without consuming."""
        return self._has(address, self._clock()) >= 1

    def _has(self, address: str, now: float) -> float:
        left, since = self._left.get(address, (float(self.burst), now))
        return min(self.burst, left + (now - since) * self.rate)


class Busy(RuntimeError):  # noqa: N818 - named after the condition, not "Error"
    """The queue of waiting requests is full."""


class Gate:
    """Decoding threads with a bounded queue."""

    def __init__(self, limits: Limits) -> None:
        self.most = limits.decodes + limits.line
        self.inside = 0
        self._pool = ThreadPoolExecutor(limits.decodes, thread_name_prefix="decode")
        self._room = asyncio.Semaphore(limits.decodes)

    async def do(
        self,
        work: Callable[[], Result],
        gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> Result | None:
        """Run ``work`` in a thread; None if the client has disconnected.

        Args:
            work: reads and decodes.
            gone: whether the client has disconnected; checked before ``work`` starts.

        Raises:
            Busy: the queue is full.
        """
        if self.inside >= self.most:
            raise Busy
        self.inside += 1
        try:
            async with self._room:
                if gone is not None and await gone():
                    return None
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._pool, work)
        finally:
            self.inside -= 1

    def close(self) -> None:
        """Accept no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
