"""The ASGI application: what is answered about the whole collection, and all routes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from digipath_ray.recipe import AnnotationSpec
from digipath_ray.rundir import RunDirectory
from digipath_ray.viewer import exports
from digipath_ray.viewer.answers import (
    body_of,
    say_damaged,
    say_http_error,
    say_no_map,
    say_os_error,
)
from digipath_ray.viewer.collection import Collection
from digipath_ray.viewer.guard import Guard, refuse, welcome
from digipath_ray.viewer.layers import NoMap
from digipath_ray.viewer.limits import Limits
from digipath_ray.viewer.live import follow
from digipath_ray.viewer.service import Service
from digipath_ray.viewer.slides import SlideRoutes
from digipath_ray.viewer.starts import Starts, Wanted
from digipath_ray.viewer.trust import Trust

RESEARCH_USE = "For research use only. Not for diagnosis."
PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".woff2": "font/woff2",
}
NOT_BUILT = (
    "The viewer's page is not built: npm ci && npm run build in "
    "digipath_ray/viewer/web, or install the wheel.\n"
)


class PageRoutes:
    """The built page, and the way in."""

    def __init__(self, page: Path, trust: Trust) -> None:
        self._page, self._trust = page, trust

    async def index(self, request: Request) -> Response:
        """The page."""
        return await self._asset("index.html")

    async def asset(self, request: Request) -> Response:
        """One of its files."""
        return await self._asset(request.path_params["name"])

    async def _asset(self, name: str) -> Response:
        files = await run_in_threadpool(list_page, self._page)
        if name not in files:
            if name == "index.html":
                return PlainTextResponse(NOT_BUILT, 503)
            raise HTTPException(404, "no such file")
        kind = KINDS.get(files[name].suffix or ".txt", "application/octet-stream")
        headers = {"cache-control": "no-cache"}
        return FileResponse(files[name], media_type=kind, headers=headers)

    async def login(self, request: Request) -> Response:
        """A cookie for who knows the token."""
        said = (await body_of(request)).get("token")
        if self._trust.token is None or not isinstance(said, str):
            return refuse(400, "no token is asked for, or none was given", "open /")
        if not self._trust.is_token(said):
            return refuse(
                401, "this is not the token", "open the whole address that was printed"
            )
        return welcome(self._trust, request)

    @property
    def routes(self) -> list[Route]:
        """What is answered, and by what."""
        return [
            Route("/", self.index),
            Route("/assets/{name}", self.asset),
            Route("/api/login", self.login, methods=["POST"]),
        ]


class CohortRoutes:
    """The whole collection, now and as it changes."""

    def __init__(self, service: Service, *, allow_run: bool) -> None:
        self._service, self._allow_run = service, allow_run
        self._streams = 0

    async def cohort(self, request: Request) -> Response:
        """All slides and patients."""
        snapshot = await self._service.snapshot()
        return JSONResponse(
            {
                "title": snapshot.title,
                "kind": snapshot.kind,
                "research_use": RESEARCH_USE,
                "ending": snapshot.ending,
                "notes": list(snapshot.notes),
                "allow_run": self._allow_run,
                "status": snapshot.status,
                "slides": list(snapshot.slides.values()),
                "patients": list(snapshot.patients),
                "runs": list(snapshot.runs),
                "run_titles": {
                    name: run_title(run.directory)
                    for name, run in snapshot.runs.items()
                },
            }
        )

    async def events(self, request: Request) -> Response:
        """What changes, as it does."""
        if self._streams >= self._service.limits.streams:
            raise HTTPException(
                503, "too many pages follow this run", headers={"retry-after": "30"}
            )

        async def stream() -> AsyncIterator[str]:
            self._streams += 1
            try:
                async for event in follow(
                    self._service.snapshot, request.is_disconnected
                ):
                    yield event
            finally:
                self._streams -= 1

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(
            stream(), media_type="text/event-stream", headers=headers
        )

    async def export_cohort(self, request: Request) -> Response:
        """The outcomes of all slides as a table."""
        snapshot = await self._service.snapshot()
        data = await run_in_threadpool(exports.cohort_csv, snapshot)
        name = snapshot.title.replace("/", "_")
        return Response(
            data, media_type="text/csv", headers=exports.attachment(f"{name}.csv")
        )

    @property
    def routes(self) -> list[Route]:
        """What is answered, and by what."""
        return [
            Route("/api/cohort", self.cohort),
            Route("/api/events", self.events),
            Route("/api/export/csv", self.export_cohort),
        ]


class JobRoutes:
    """Runs started from the page."""

    def __init__(self, service: Service, starts: Starts) -> None:
        self._service, self._starts = service, starts

    async def jobs(self, request: Request) -> Response:
        """Runs started from here."""
        return JSONResponse({"jobs": self._starts.said})

    async def start(self, request: Request) -> Response:
        """Queue a run."""
        said = await body_of(request)
        snapshot = await self._service.snapshot()
        try:
            wanted = Wanted.of(said, snapshot.entries)
            job = await run_in_threadpool(self._starts.add, wanted)
        except (ValueError, OSError) as e:
            return refuse(400, str(e), "choose otherwise")
        return JSONResponse(job, 201)

    async def cancel(self, request: Request) -> Response:
        """End a run, or take it out of the queue."""
        job = self._starts.cancel(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "no such run")
        return JSONResponse(job)

    @property
    def routes(self) -> list[Route]:
        """What is answered, and by what."""
        return [
            Route("/api/jobs", self.jobs, methods=["GET"]),
            Route("/api/jobs", self.start, methods=["POST"]),
            Route("/api/jobs/{id}/cancel", self.cancel, methods=["POST"]),
        ]


def make_app(
    collection: Collection,
    *,
    trust: Trust | None = None,
    limits: Limits | None = None,
    annotations: AnnotationSpec | None = None,
    starts: Starts | None = None,
    page: Path = PAGE,
) -> ASGIApp:
    """The viewer of a collection as an ASGI application, for uvicorn or Ray Serve.

    Args:
        collection: what is shown.
        trust: whom it answers; by default loopback alone, without a token.
        limits: how much of it at once.
        annotations: how the ground truth is understood.
        starts: runs started from the page; None where that is not allowed.
        page: folder of the built page.
    """
    trust, limits = trust or Trust(), limits or Limits()
    service = Service(collection, limits)
    slides = SlideRoutes(service, annotations or AnnotationSpec())
    jobs = [] if starts is None else JobRoutes(service, starts).routes
    app = Starlette(
        routes=[
            *PageRoutes(page, trust).routes,
            *CohortRoutes(service, allow_run=starts is not None).routes,
            *slides.routes,
            *jobs,
        ],
        lifespan=_lifespan(service, slides, starts),
        exception_handlers={
            HTTPException: say_http_error,
            NoMap: say_no_map,
            ValueError: say_damaged,
            OSError: say_os_error,
        },
    )
    return Guard(app, trust=trust, limits=limits)


def _lifespan(
    service: Service, slides: SlideRoutes, starts: Starts | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Run what is started from the page while the server lives; then close all."""

    @contextlib.asynccontextmanager
    async def live(_: Starlette) -> AsyncIterator[None]:
        working = None if starts is None else asyncio.create_task(starts.work())
        try:
            yield
        finally:
            if starts is not None and working is not None:
                await starts.stop()
                working.cancel()
            service.gate.close()
            slides.pool.close()

    return live


def list_page(page: Path) -> dict[str, Path]:
    """The files of the built page by name; links are none."""
    if not page.is_dir():
        return {}
    return {p.name: p for p in page.iterdir() if p.is_file() and not p.is_symlink()}


def run_title(run: RunDirectory) -> str:
    """A run's name for people: the end of its path."""
    return "/".join(run.root.parts[-2:]).lstrip("/")
