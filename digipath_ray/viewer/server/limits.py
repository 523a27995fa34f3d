"""How much is served at once: requests of an address, and decodes of all together."""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is served at once.

    Attributes:
        decodes: threads that read slides and maps.
        line: requests that wait for one; more are told to come again.
        rate: requests a second that one address may make for long.
        burst: requests that it may make at once: a screen of tiles, many times over.
        streams: pages that follow a run at once.
        logins: tokens that one address may try within a minute.
    """

    decodes: int = field(default_factory=lambda: max(4, min(16, os.cpu_count() or 4)))
    line: int = 512
    rate: float = 400.0
    burst: int = 2000
    streams: int = 64
    logins: int = 10


class Rate:
    """How often each address may ask: so many at once, so many a second for long."""

    MOST_ADDRESSES = 4096

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, address: str) -> bool:
        """Whether an address may ask once more now."""
        now = self._clock()
        left = self._has(address, now)
        self._left.pop(address, None)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > self.MOST_ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1

    def has_left(self, address: str) -> bool:
        """Whether an address may ask once more, without asking."""
        return self._has(address, self._clock()) >= 1

    def _has(self, address: str, now: float) -> float:
        left, since = self._left.get(address, (float(self.burst), now))
        return min(self.burst, left + (now - since) * self.rate)


class Busy(RuntimeError):  # noqa: N818 - says what is, not "Error"
    """So many wait already that one more is told to come again."""


class Gate:
    """The way to the threads that decode: a few at once, a line of bounded length."""

    def __init__(self, limits: Limits) -> None:
        self.most = limits.decodes + limits.line
        self.inside = 0
        self._pool = ThreadPoolExecutor(limits.decodes, thread_name_prefix="decode")
        self._room = asyncio.Semaphore(limits.decodes)

    async def do(
        self,
        work: Callable[[], Answer],
        gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> Answer | None:
        """What ``work`` returns, done in a thread; None if nobody waits for it.

        Args:
            work: reads and decodes.
            gone: whether the one who asked has left; looked at when its turn comes.

        Raises:
            Busy: the line is full.
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
        """Let nothing more in."""
        self._pool.shutdown(wait=False, cancel_futures=True)
