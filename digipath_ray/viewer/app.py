"""The ASGI application: the page, all routes, and what lives as long as it does."""

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
        given = (await body_of(request)).get("token")
        if self._trust.token is None or not isinstance(given, str):
            return refuse(400, "no token is asked for, or none was given", "open /")
        if not self._trust.is_token(given):
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
    """Run what is started from the page while the server lives; then close all."""

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
    """Work in the background; nobody awaits it, so that it failed is logged."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the viewer's background work has ended", exc_info=error)


def list_page(page: Path) -> dict[str, Path]:
    """The files of the built page by name; links are none."""
    if not page.is_dir():
        return {}
    return {p.name: p for p in page.iterdir() if p.is_file() and not p.is_symlink()}
