"""A run as it goes on: server-sent events for as long as somebody looks."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from digipath_ray.viewer.entries import Json, changed
from digipath_ray.viewer.opened import Snapshot

LOOK_S = 1.0
COMMENT_S = 15.0
"""Between two signs of life, so that proxies keep the connection open."""

Look = Callable[[], Awaitable[Snapshot]]


class Seen:
    """What one page has been told."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._status: Json | None = None
        self._slides: dict[str, Json] = {}
        self._patients: dict[str, Json] = {}

    def events(self, snapshot: Snapshot) -> Iterator[str]:
        """What of a snapshot is news, as events; at first all of it."""
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        if snapshot.status is not None and snapshot.status != self._status:
            self._status = snapshot.status
            yield say_event("status", snapshot.status)
        slides = snapshot.slides
        if news := changed(self._slides, slides):
            yield say_event("slides", news)
        patients = {p["patient_id"]: p for p in snapshot.patients}
        if changed(self._patients, patients):
            yield say_event("patients", snapshot.patients)
        self._slides, self._patients = slides, patients


def say_event(name: str, data: object) -> str:
    """A server-sent event; JSON has no line break of its own."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


async def follow(
    look: Look,
    gone: Callable[[], Awaitable[bool]],
    *,
    every_s: float = LOOK_S,
    comment_s: float = COMMENT_S,
) -> AsyncIterator[str]:
    """Events until the page is gone.

    Args:
        look: the snapshot now.
        gone: whether the page has left.
        every_s: seconds between two looks.
        comment_s: seconds between two comments.
    """
    seen, spoken = Seen(), time.monotonic()
    yield "retry: 3000\n\n"
    while not await gone():
        for event in seen.events(await look()):
            spoken = time.monotonic()
            yield event
        if time.monotonic() - spoken >= comment_s:
            spoken = time.monotonic()
            yield ": here\n\n"
        await asyncio.sleep(every_s)
