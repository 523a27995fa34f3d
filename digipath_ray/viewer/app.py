"""ASGI application: page, routes and lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.viewer.collection.collection import Collection
from digipath_ray.viewer.queue.queue import Starts
from digipath_ray.viewer.server.auth import Trust
from digipath_ray.viewer.server.cohort import CohortRoutes
from digipath_ray.viewer.server.downloads import DownloadRoutes
from digipath_ray.viewer.server.limits import Limits
from digipath_ray.viewer.server.middleware import Guard, refuse, welcome
from digipath_ray.viewer.server.responses import (
    body_of,
    damaged_response,
    fetching_response,
    http_error_response,
    no_map_response,
    os_error_response,
)
from digipath_ray.viewer.server.runs import RunRoutes
from digipath_ray.viewer.server.service import Service
from digipath_ray.viewer.server.slides import SlideRoutes
from digipath_ray.viewer.tiles.layers import NoMap
from digipath_ray.viewer.tiles.pool import Fetching

log = logging.getLogger(__name__)

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
    """Routes of the built page and the login."""

    def __init__(self, page: Path, trust: Trust) -> None:
        self._page, self._trust = page, trust

    async def index(self, request: Request) -> Response:
        """Serve the page."""
        return await self._asset("index.html")

    async def asset(self, request: Request) -> Response:
        """Serve a file of the page."""
        return await self._asset(request.path_params["name"])

    async def _asset(self, name: str) -> Response:
        files = await run_in_threadpool(list_page, self._page)
        if name not in files:
            if name == "index.html":
                return PlainTextResponse(NOT_BUILT, 503)
            raise HTTPException(404, "file not found")
        kind = KINDS.get(files[name].suffix or ".txt", "application/octet-stream")
        headers = {"cache-control": "no-cache"}
        return FileResponse(files[name], media_type=kind, headers=headers)

    async def login(self, request: Request) -> Response:
        """Exchange the token for a session cookie."""
        given = (await body_of(request)).get("token")
        if self._trust.token is None or not isinstance(given, str):
            return refuse(400, "no token required, or none given", "open /")
        if not self._trust.is_token(given):
            return refuse(401, "wrong token", "open the full URL that was printed")
        return welcome(self._trust, request)

    @property
    def routes(self) -> list[Route]:
        """Routes of this class."""
        return [
            Route("/", self.index),
            Route("/assets/{name}", self.asset),
            Route("/api/login", self.login, methods=["POST"]),
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
    """Build the viewer as an ASGI application, for uvicorn or Ray Serve.

    Args:
        collection: collection to show.
        trust: access policy; default: loopback only, without token.
        limits: load limits.
        annotations: how to interpret ground truth.
        starts: queue of runs started from the page; None to disable it.
        page: folder of the built page.
    """
    trust, limits = trust or Trust(), limits or Limits()
    service = Service(collection, limits)
    slides = SlideRoutes(service, annotations or AnnotationSpec())
    jobs = [] if starts is None else RunRoutes(service, starts).routes
    app = Starlette(
        routes=[
            *PageRoutes(page, trust).routes,
            *CohortRoutes(service, allow_run=starts is not None).routes,
            *slides.routes,
            *DownloadRoutes(service).routes,
            *jobs,
        ],
        lifespan=_lifespan(service, slides, starts),
        exception_handlers={
            HTTPException: http_error_response,
            Fetching: fetching_response,
            NoMap: no_map_response,
            ValueError: damaged_response,
            OSError: os_error_response,
        },
    )
    return Guard(app, trust=trust, limits=limits)


def _lifespan(
    service: Service, slides: SlideRoutes, starts: Starts | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Run background tasks while the server lives, then close everything."""

    @contextlib.asynccontextmanager
    async def live(_: Starlette) -> AsyncIterator[None]:
        tasks = [_begin(service.watch())]
        if starts is not None:
            tasks.append(_begin(starts.work()))
        try:
            yield
        finally:
            if starts is not None:
                await starts.stop()
            for task in tasks:
                task.cancel()
            service.gate.close()
            slides.pool.close()

    return live


def _begin(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Start a background task; its failure is logged, as nothing awaits it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the viewer's background task has failed", exc_info=error)


def list_page(page: Path) -> dict[str, Path]:
    """Files of the built page by name, without symbolic links."""
    if not page.is_dir():
        return {}
    return {p.name: p for p in page.iterdir() if p.is_file() and not p.is_symlink()}
