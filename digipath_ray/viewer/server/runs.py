"""Routes of runs started from the page."""

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from digipath_ray.config.toml import PRESETS
from digipath_ray.viewer.queue.jobs import Wanted
from digipath_ray.viewer.queue.queue import Starts
from digipath_ray.viewer.server.middleware import refuse
from digipath_ray.viewer.server.responses import body_of
from digipath_ray.viewer.server.service import Service


class RunRoutes:
    """Routes of runs started from the page."""

    def __init__(self, service: Service, starts: Starts) -> None:
        self._service, self._starts = service, starts

    async def jobs(self, request: Request) -> Response:
        """Serve the queued runs, and the options of a new one."""
        out = await self._starts.free_name(self._service.latest.title)
        jobs = self._starts.payloads
        return JSONResponse({"jobs": jobs, "presets": list(PRESETS), "out": out})

    async def start(self, request: Request) -> Response:
        """Queue a run."""
        body = await body_of(request)
        try:
            entries = self._service.latest.entries
            base = self._starts.base
            wanted = await run_in_threadpool(Wanted.of, body, entries, base=base)
            job = await self._starts.add(wanted)
        except (ValueError, OSError) as e:
            return refuse(400, str(e), "change the request")
        return JSONResponse(job, 201)

    async def cancel(self, request: Request) -> Response:
        """Cancel a running or queued run."""
        job = self._starts.cancel(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "run not found")
        return JSONResponse(job)

    @property
    def routes(self) -> list[Route]:
        """Routes of this class."""
        return [
            Route("/api/jobs", self.jobs, methods=["GET"]),
            Route("/api/jobs", self.start, methods=["POST"]),
            Route("/api/jobs/{id}/cancel", self.cancel, methods=["POST"]),
        ]
