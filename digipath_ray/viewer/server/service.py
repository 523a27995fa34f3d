"""What all routes share: the collection, and the way to the threads that decode."""

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from digipath_ray.viewer.collection.collection import Collection
from digipath_ray.viewer.collection.snapshot import Entry, Snapshot
from digipath_ray.viewer.server.limits import Busy, Gate, Limits

TICK_S = 0.5
"""How often it is asked whether it is time to look."""
KEY = re.compile("[0-9a-f]{16}")

Answer = TypeVar("Answer")


class Service:
    """A collection as routes ask for it; the event loop never waits for a disk."""

    def __init__(self, collection: Collection, limits: Limits) -> None:
        self.collection, self.limits = collection, limits
        self.gate = Gate(limits)

    @property
    def latest(self) -> Snapshot:
        """The collection as it was last looked at; see :meth:`watch`."""
        return self.collection.latest

    async def watch(self) -> None:
        """Look at what is opened for as long as this task lives, in a thread.

        No request waits for it: a run of many slides on a slow disk takes its time.
        """
        while True:
            if self.collection.is_due:
                await run_in_threadpool(self.collection.look)
            await asyncio.sleep(TICK_S)

    def entry(self, request: Request) -> Entry:
        """The slide that a request names.

        Raises:
            HTTPException: there is none.
        """
        key, entries = request.path_params["key"], self.latest.entries
        if not KEY.fullmatch(key) or key not in entries:
            raise HTTPException(404, "no such slide")
        return entries[key]

    async def do(self, request: Request, work: Callable[[], Answer]) -> Answer:
        """What ``work`` returns, when its turn has come.

        Raises:
            HTTPException: too many wait, or nobody does.
        """
        try:
            found = await self.gate.do(work, request.is_disconnected)
        except Busy as e:
            raise HTTPException(
                503, "too many tiles are waited for", headers={"retry-after": "1"}
            ) from e
        if found is None:
            raise HTTPException(499, "nobody waits for this any more")
        return found
