"""What is answered about the whole collection: as it stands, and as it changes."""

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
    """Events until the page is gone, however it went."""

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
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class CohortRoutes:
    """The whole collection, now and as it changes."""

    def __init__(self, service: Service, *, allow_run: bool) -> None:
        self._service, self._allow_run = service, allow_run
        self._streams = 0

    async def cohort(self, request: Request) -> Response:
        """All slides and patients."""
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
        """What changes, as it does."""
        if self._streams >= self._service.limits.streams:
            raise HTTPException(
                503, "too many pages follow this run", headers={"retry-after": "30"}
            )
        # Counted at once: a burst would be let in before the first of them is iterated.
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
        """What is answered, and by what."""
        return [Route("/api/cohort", self.cohort), Route("/api/events", self.events)]


def _state_of(request: Request) -> str:
    """The state that a page was told last; a browser that connects again says it."""
    since = request.query_params.get("since", "")
    return request.headers.get("last-event-id", since)
