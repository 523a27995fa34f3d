"""A run as it goes on: server-sent events for as long as somebody looks."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.collection.snapshot import Json, Snapshot

LOOK_S = 1.0
COMMENT_S = 15.0
"""Between two signs of life, so that proxies keep the connection open."""


def cohort_payload(snapshot: Snapshot) -> Json:
    """What is said of a collection beside its slides and patients."""
    return {
        "title": snapshot.title,
        "kind": snapshot.kind,
        "ending": snapshot.ending,
        "notes": list(snapshot.notes),
        "runs": list(snapshot.runs),
        "run_titles": {name: run_title(run) for name, run in snapshot.runs.items()},
    }


def run_title(run: RunDirectory) -> str:
    """A run's name for people: the end of its path."""
    return "/".join(run.root.parts[-2:]).lstrip("/")


class Seen:
    """What one page has been told."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        """A page that was told this snapshot, or nothing."""
        self._snapshot = snapshot

    def events(self, now: Snapshot) -> Iterator[str]:
        """What of a snapshot is news, as events; at first all of it."""
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
    """What is said of slides that are new, or not as they were."""
    for key, entry in now.entries.items():
        old = was.entries.get(key)
        if old is None or (old is not entry and old.payload != entry.payload):
            yield entry.payload


def format_event(name: str, data: object) -> str:
    """A server-sent event; JSON has no line break of its own."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


def state_event(snapshot: Snapshot) -> str:
    """What a browser sends when it connects again: it has been told all up to here."""
    return f"id: {snapshot.state}\n\n"


async def follow(
    look: Callable[[], Snapshot],
    gone: Callable[[], Awaitable[bool]],
    *,
    known_state: Snapshot | None = None,
    every_s: float = LOOK_S,
    comment_s: float = COMMENT_S,
) -> AsyncIterator[str]:
    """Events until the page is gone.

    Args:
        look: the snapshot now.
        gone: whether the page has left.
        known_state: what the page knows already; None: nothing.
        every_s: seconds between two looks.
        comment_s: seconds between two comments.
    """
    seen, known, spoken = Seen(known_state), known_state, time.monotonic()
    yield "retry: 3000\n\n"
    while not await gone():
        now = look()
        if now is not known:
            for event in seen.events(now):
                yield event
            # After the last of them: a connection may break between two.
            yield state_event(now)
            known, spoken = now, time.monotonic()
        if time.monotonic() - spoken >= comment_s:
            spoken = time.monotonic()
            yield ": here\n\n"
        await asyncio.sleep(every_s)
