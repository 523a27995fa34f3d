"""What all routes share: the collection, and the way to the threads that decode."""

import re
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from digipath_ray.viewer.collection import Collection
from digipath_ray.viewer.limits import Busy, Gate, Limits
from digipath_ray.viewer.opened import Entry, Snapshot

KEY = re.compile("[0-9a-f]{16}")

Answer = TypeVar("Answer")


class Service:
    """A collection as routes ask for it; the event loop never waits for a disk."""

    def __init__(self, collection: Collection, limits: Limits) -> None:
        self.collection, self.limits = collection, limits
        self.gate = Gate(limits)

    async def snapshot(self) -> Snapshot:
        """The collection now; read again in a thread if it is time to."""
        if not self.collection.stale:
            return self.collection.latest
        return await run_in_threadpool(self.collection.snapshot)

    async def entry(self, request: Request) -> Entry:
        """The slide that a request names.

        Raises:
            HTTPException: there is none.
        """
        key = request.path_params["key"]
        snapshot = await self.snapshot()
        if not KEY.fullmatch(key) or key not in snapshot.entries:
            raise HTTPException(404, "no such slide")
        return snapshot.entries[key]

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
