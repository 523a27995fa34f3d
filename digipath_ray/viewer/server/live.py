"""Server-sent events of a running run."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.collection.snapshot import Json, Snapshot

LOOK_S = 1.0
COMMENT_S = 15.0
"""Seconds between keep-alive comments, so that proxies keep the connection open."""


def cohort_payload(snapshot: Snapshot) -> Json:
    """Payload of a collection without its slides and patients."""
    return {
        "title": snapshot.title,
        "kind": snapshot.kind,
        "ending": snapshot.ending,
        "notes": list(snapshot.notes),
        "runs": list(snapshot.runs),
        "run_titles": {name: run_title(run) for name, run in snapshot.runs.items()},
    }


def run_title(run: RunDirectory) -> str:
    """Title of a run: the end of its path."""
    return "/".join(run.root.parts[-2:]).lstrip("/")


class Seen:
    """State known to one page."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        """Create the state of a page that knows a snapshot, or nothing."""
        self._snapshot = snapshot

    def events(self, now: Snapshot) -> Iterator[str]:
        """Yield the changes of a snapshot as events; initially all of it."""
        old, self._snapshot = self._snapshot, now
        if now is old:
            return
        was, whole = old or Snapshot(title="", kind="", ending=""), old is None
        if whole or cohort_payload(was) != cohort_payload(now):
            more = {"status": now.status, "whole": whole}
            yield format_event("cohort", {**cohort_payload(now), **more})
        if now.status is not None and now.status != was.status:
            yield format_event("status", now.status)
        if gone := [key for key in was.entries if key not in now.entries]:
            yield format_event("gone", gone)
        if (news := list(_changed(was, now))) or whole:
            yield format_event("slides", news)
        if whole or list(was.patients) != list(now.patients):
            yield format_event("patients", list(now.patients))


def _changed(was: Snapshot, now: Snapshot) -> Iterator[Json]:
    """Payloads of new and changed slides."""
    for key, entry in now.entries.items():
        old = was.entries.get(key)
        if old is None or (old is not entry and old.payload != entry.payload):
            yield entry.payload


def format_event(name: str, data: object) -> str:
    """Format a server-sent event; JSON has no raw line breaks."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


def state_event(snapshot: Snapshot) -> str:
    """Event id that a reconnecting browser sends back as its last known state."""
    return f"id: {snapshot.state}\n\n"


async def follow(
    look: Callable[[], Snapshot],
    gone: Callable[[], Awaitable[bool]],
    *,
    known_state: Snapshot | None = None,
    every_s: float = LOOK_S,
    comment_s: float = COMMENT_S,
) -> AsyncIterator[str]:
    """Yield events until the page disconnects.

    Args:
        look: returns the current snapshot.
        gone: whether the page has disconnected.
        known_state: state known to the page; None if nothing.
        every_s: seconds between polls.
        comment_s: seconds between keep-alive comments.
    """
    seen, known, last_sent = Seen(known_state), known_state, time.monotonic()
    yield "retry: 3000\n\n"
    while not await gone():
        now = look()
        if now is not known:
            for event in seen.events(now):
                yield event
            # Sent last, because the connection may break between two events.
            yield state_event(now)
            known, last_sent = now, time.monotonic()
        if time.monotonic() - last_sent >= comment_s:
            last_sent = time.monotonic()
            yield ": here\n\n"
        await asyncio.sleep(every_s)
