"""Routes of downloads; their content is written by ``exports``."""

from collections.abc import Mapping
from pathlib import Path

from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from digipath_ray.storage.files import is_url
from digipath_ray.viewer.collection.snapshot import FIRST
from digipath_ray.viewer.server import exports
from digipath_ray.viewer.server.service import Service


class DownloadRoutes:
    """Downloads of one slide and of all; ``?run=b`` selects the second run."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def slide(self, request: Request) -> Response:
        """Serve a slide's outlines, heatmap or lesions."""
        entry, kind = self._service.entry(request), request.path_params["kind"]
        run, do = self._run(request), self._service.do
        name = entry.slide_id if run == FIRST else f"{entry.slide_id}_{run}"
        if kind == "geojson":
            data = await do(request, lambda: exports.read_outlines(entry, run))
            return _save(data, f"{name}.geojson", "application/geo+json")
        if kind == "csv":
            data = await do(request, lambda: exports.lesions_csv(entry, run))
            return _save(data, f"{name}_lesions.csv", "text/csv")
        if kind == "heatmap":
            path = await do(request, lambda: exports.find_heatmap(entry, run))
            headers = exports.attachment(f"{name}.ome.tiff")
            return await self._stream(request, path, "image/tiff", headers)
        raise HTTPException(404, "unknown export")

    async def cohort(self, request: Request) -> Response:
        """Serve the outcomes of all slides as a table."""
        snapshot, run = self._service.latest, self._run(request)
        data = await self._service.do(
            request, lambda: exports.cohort_csv(snapshot, run)
        )
        name = snapshot.title if run == FIRST else f"{snapshot.title}_{run}"
        return _save(data, f"{name.replace('/', '_')}.csv", "text/csv")

    def _run(self, request: Request) -> str:
        """Selected run of a request.

        Raises:
            HTTPException: the run is not opened.
        """
        run = request.query_params.get("run", FIRST)
        if run != FIRST and run not in self._service.latest.runs:
            raise HTTPException(404, "run not found")
        return run

    async def _stream(
        self, request: Request, path: Path, kind: str, headers: Mapping[str, str]
    ) -> Response:
        if not is_url(path):
            return FileResponse(path, media_type=kind, headers=headers)
        size = await self._service.do(request, lambda: exports.size_of(path))
        parts = iterate_in_threadpool(exports.read_parts(path, size))
        more = {**headers, "content-length": str(size)}
        return StreamingResponse(parts, media_type=kind, headers=more)

    @property
    def routes(self) -> list[Route]:
        """Routes of this class."""
        return [
            Route("/api/slides/{key}/export/{kind}", self.slide),
            Route("/api/export/csv", self.cohort),
        ]


def _save(data: bytes, name: str, kind: str) -> Response:
    return Response(data, media_type=kind, headers=exports.attachment(name))
