"""Shared state of all routes: the collection and the decoding threads."""

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
"""Seconds between checks whether a poll is due."""
KEY = re.compile("[0-9a-f]{16}")

Result = TypeVar("Result")


class Service:
    """Access of routes to a collection, without blocking the event loop."""

    def __init__(self, collection: Collection, limits: Limits) -> None:
        self.collection, self.limits = collection, limits
        self.gate = Gate(limits)

    @property
    def latest(self) -> Snapshot:
        """Latest snapshot of the collection; updated by :meth:`watch`."""
        return self.collection.latest

    async def watch(self) -> None:
        """Poll the collection in a thread until canceled.

        No request waits for it, as a large run on a slow disk takes long.
        """
        while True:
            if self.collection.is_due:
                await run_in_threadpool(self.collection.look)
            await asyncio.sleep(TICK_S)

    def entry(self, request: Request) -> Entry:
        """Entry of the slide in a request's URL.

        Raises:
            HTTPException: the slide does not exist.
        """
        key, entries = request.path_params["key"], self.latest.entries
        if not KEY.fullmatch(key) or key not in entries:
            raise HTTPException(404, "slide not found")
        return entries[key]

    async def do(self, request: Request, work: Callable[[], Result]) -> Result:
        """Run ``work`` in a decoding thread.

        Raises:
            HTTPException: the queue is full, or the client has disconnected.
        """
        try:
            found = await self.gate.do(work, request.is_disconnected)
        except Busy as e:
            raise HTTPException(
                503, "too many tiles are queued", headers={"retry-after": "1"}
            ) from e
        if found is None:
            raise HTTPException(499, "the client has disconnected")
        return found
