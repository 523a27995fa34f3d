"""Routes of the whole collection: its state and its changes."""

from collections.abc import AsyncIterator, Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from digipath_ray.viewer.server.live import cohort_payload, follow
from digipath_ray.viewer.server.service import Service

RESEARCH_USE = "For research use only. Not for diagnosis."


class Stream(StreamingResponse):
    """Event stream that ends when the page disconnects."""

    def __init__(
        self,
        events: AsyncIterator[str],
        headers: Mapping[str, str],
        *,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class CohortRoutes:
    """Routes of the collection and its event stream."""

    def __init__(self, service: Service, *, allow_run: bool) -> None:
        self._service, self._allow_run = service, allow_run
        self._streams = 0

    async def cohort(self, request: Request) -> Response:
        """Serve all slides and patients."""
        snapshot = self._service.latest
        return JSONResponse(
            {
                **cohort_payload(snapshot),
                "state": snapshot.state,
                "research_use": RESEARCH_USE,
                "allow_run": self._allow_run,
                "status": snapshot.status,
                "slides": list(snapshot.slides.values()),
                "patients": list(snapshot.patients),
            }
        )

    async def events(self, request: Request) -> Response:
        """Stream changes as server-sent events."""
        if self._streams >= self._service.limits.streams:
            raise HTTPException(
                503,
                "too many pages are following this run",
                headers={"retry-after": "30"},
            )
        # Counted here, before iteration starts, so that a burst cannot exceed the
        # limit.
        self._streams += 1
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        events = follow(
            lambda: self._service.latest,
            request.is_disconnected,
            known_state=self._service.collection.recall(_state_of(request)),
        )
        return Stream(events, headers, ended=self._ended)

    def _ended(self) -> None:
        self._streams -= 1

    @property
    def routes(self) -> list[Route]:
        """Routes of this class."""
        return [Route("/api/cohort", self.cohort), Route("/api/events", self.events)]


def _state_of(request: Request) -> str:
    """Last state known to a page, sent by a reconnecting browser."""
    since = request.query_params.get("since", "")
    return request.headers.get("last-event-id", since)
