"""Routes of one slide: tiles, maps, values, outlines."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from digipath_ray.cohort.pseudonyms import hide_files
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.record import canvas_columns
from digipath_ray.slide.info import SlideError, SlideInfo
from digipath_ray.storage.files import is_url, json_digest, read_bytes
from digipath_ray.viewer.collection.entries import lesion_payloads
from digipath_ray.viewer.collection.snapshot import FIRST, Entry, Json
from digipath_ray.viewer.server import exports
from digipath_ray.viewer.server.responses import (
    Blob,
    blob_response,
    draw_error,
    hint_of,
    number_of,
    tile_of,
)
from digipath_ray.viewer.server.service import Service
from digipath_ray.viewer.tiles.layers import Layer, NoMap
from digipath_ray.viewer.tiles.maps import Maps
from digipath_ray.viewer.tiles.pool import Fetching, SlidePool
from digipath_ray.viewer.tiles.pyramid import OVERLAP, TILE_PX, NoTile, max_level
from digipath_ray.viewer.tiles.slidetiles import Tiles, shrink

log = logging.getLogger(__name__)

NO_RUN_THRESHOLD = 0.5
SLIDE = "/api/slides/{key}"
ANOTHER_FILE: Json = {
    "error": "the slide's file has a different size than in the run",
    "hint": "its maps are misaligned: restore the file, or run again",
}


class SlideRoutes:
    """Routes below a slide's key."""

    def __init__(self, service: Service, annotations: AnnotationSpec) -> None:
        self._service = service
        self.pool = SlidePool()
        self._tiles = Tiles(self.pool)
        self._maps = Maps(annotations)
        self._warned: set[str] = set()

    # A slide

    async def slide(self, request: Request) -> Response:
        """Serve the payload of a slide and its layers."""
        entry = self._service.entry(request)
        return JSONResponse(
            await self._service.do(request, lambda: self._payload(entry))
        )

    def _payload(self, entry: Entry) -> Json:
        info, error = self._info(entry)
        measured = self._measured(entry, info)
        layers, troubles = self._maps.examine(measured)
        outlined, broken = _outlined(entry)
        return {
            **entry.payload,
            "image": image_payload(measured, info, self._version(entry)),
            "image_error": error,
            "threshold": entry.thresholds.get(FIRST, NO_RUN_THRESHOLD),
            "thresholds": dict(entry.thresholds),
            "layers": [asdict(layer) for layer in layers],
            "lesions": lesion_payloads(
                entry.lesions.get(FIRST, ()), entry.record, _scale_of(layers)
            ),
            "facts": [*map(list, entry.facts), *file_payload(info)],
            "notes": [
                hide_files(note, entry.row)
                for note in (*entry.notes, *troubles, *broken)
            ],
            "outlines": outlined,
            "done": [name for name, held in entry.runs.items() if held.stamp],
            "truth_outlines": entry.row.annotation is not None
            and bool(measured.record),
        }

    def _info(self, entry: Entry) -> tuple[SlideInfo | None, Json | None]:
        """Metadata of the slide's file, or the error."""
        try:
            with self.pool.use(entry.row) as tiled:
                info = tiled.slide.info
            if entry.l0_size not in (None, (info.width, info.height)):
                return info, ANOTHER_FILE
            return info, None
        except Fetching:
            if not entry.record:
                raise
            return None, None  # the run's record suffices
        except (SlideError, OSError) as e:
            return None, {"error": hide_files(str(e), entry.row), "hint": hint_of(e)}

    def _version(self, entry: Entry) -> str:
        try:
            return self.pool.version(entry.row)
        except (SlideError, OSError):
            return ""

    def _measured(self, entry: Entry, info: SlideInfo | None = None) -> Entry:
        """Entry with the slide's size, from its file if no run has it."""
        if entry.record:
            return entry
        info = info or self._info(entry)[0]
        if info is None:
            return entry
        record = {
            "width": info.width,
            "height": info.height,
            **canvas_columns(info),
            "mpp_x": info.mpp_x or 1.0,
            "mpp_y": info.mpp_y or 1.0,
        }
        return replace(entry, record=record)

    async def tile(self, request: Request) -> Response:
        """Serve a tile of the slide."""
        entry = self._service.entry(request)
        at = tile_of(request)
        what, stains = "-".join(map(str, at)), None
        if "seen" in request.query_params:
            stains, what = entry.stains, f"{what}-{seen_version(entry)}"
            if stains is None:
                raise HTTPException(404, "the stains of this slide are as scanned")
        make = partial(self._tiles.tile, entry.row, *at, stains=stains)
        return await self._image_response(request, entry, what, make)

    async def thumbnail(self, request: Request) -> Response:
        """Serve a thumbnail, from the run or else from the slide."""
        entry = self._service.entry(request)

        def work() -> Blob:
            path, version = _stored_thumbnail(entry)
            tag = f'"{version}-thumbnail"'
            if request.headers.get("if-none-match") == tag:
                return Blob(version=version, tag=tag, data=None)
            data = self._tiles.kept.make(tag, lambda: _shrunk(path))
            return Blob(version=version, tag=tag, data=data)

        try:
            blob = await self._service.do(request, work)
        except FileNotFoundError:  # not prepared yet
            return await self._overview(request, entry)
        return blob_response(request, blob, "image/jpeg")

    async def _overview(self, request: Request, entry: Entry) -> Response:
        """Serve a thumbnail of the slide, unless it would have to be downloaded."""
        if is_url(entry.row.path):
            raise HTTPException(404, "this slide has no thumbnail yet")
        make = self._tiles.thumbnail
        return await self._image_response(
            request, entry, "thumbnail", lambda: make(entry.row)
        )

    async def _image_response(
        self, request: Request, entry: Entry, what: str, make: Callable[[], bytes]
    ) -> Response:
        """Serve an image of the slide, or an image with the error."""

        def work() -> Blob:
            version = self.pool.version(entry.row)
            tag = f'"{version}-{what}"'
            same = request.headers.get("if-none-match") == tag
            return Blob(version=version, tag=tag, data=None if same else make())

        try:
            return blob_response(
                request, await self._service.do(request, work), "image/jpeg"
            )
        except NoTile as e:
            raise HTTPException(404, "tile not found") from e
        except (SlideError, OSError) as e:
            self._warn(entry, e)
            image = draw_error(hint_of(e))
            return Response(image, 500, media_type="image/jpeg")

    def _warn(self, entry: Entry, error: Exception) -> None:
        """Log an error of a slide once, not for each tile."""
        if entry.slide_id not in self._warned:
            self._warned.add(entry.slide_id)
            log.warning("%s: %s", entry.slide_id, hide_files(str(error), entry.row))

    async def map_tile(self, request: Request) -> Response:
        """Serve a tile of a map."""
        entry = self._service.entry(request)
        run, name = request.path_params["run"], request.path_params["name"]
        at = tile_of(request)

        def work() -> Blob:
            measured = self._measured(entry)
            version = self._maps.version(measured, run, name)
            asked = request.query_params.get("v")
            if version and asked and asked != version:
                # Its scale may differ, so its grays would be misread.
                raise HTTPException(409, "this map has changed since it was listed")
            # Quoted: a header holds no letters that a class or a run may have.
            of = quote(f"{run}-{name}")
            tag = f'"{version}-{of}-{at.level}-{at.col}-{at.row}"'
            if request.headers.get("if-none-match") == tag:
                return Blob(version=version, tag=tag, data=None)
            png = self._maps.png(measured, run, name, at)
            return Blob(version=version, tag=tag, data=png)

        return blob_response(
            request, await self._service.do(request, work), "image/png"
        )

    async def values(self, request: Request) -> Response:
        """Serve the values of the maps at a point."""
        entry = self._service.entry(request)
        x, y = number_of(request, "x"), number_of(request, "y")
        measured = await self._service.do(request, lambda: self._measured(entry))
        work = partial(self._maps.values, measured, x, y)
        found = await self._service.do(request, work)
        mpp = measured.mpp
        return JSONResponse(
            {
                "x": x,
                "y": y,
                "x_um": None if mpp is None else x * mpp[0],
                "y_um": None if mpp is None else y * mpp[1],
                "values": found,
            }
        )

    async def outlines(self, request: Request) -> Response:
        """Serve the outlines of a run's lesions."""
        entry, run = self._service.entry(request), request.path_params["run"]
        data = await self._service.do(
            request, lambda: exports.read_outlines(entry, run)
        )
        return Response(data, media_type="application/geo+json")

    async def truth(self, request: Request) -> Response:
        """Serve the outlines of the ground truth."""
        entry = self._service.entry(request)

        def work() -> Json:
            features = list(self._maps.truth_features(self._measured(entry)))
            return {"type": "FeatureCollection", "features": features}

        found = await self._service.do(request, work)
        return JSONResponse(found, media_type="application/geo+json")

    @property
    def routes(self) -> list[Route]:
        """Routes of this class."""
        return [
            Route(SLIDE, self.slide),
            Route(f"{SLIDE}/thumbnail.jpg", self.thumbnail),
            Route(f"{SLIDE}/tiles/{{level}}/{{tile}}.jpg", self.tile),
            Route(
                f"{SLIDE}/maps/{{run}}/{{name}}/{{level}}/{{tile}}.png", self.map_tile
            ),
            Route(f"{SLIDE}/values", self.values),
            Route(f"{SLIDE}/outlines/{{run}}.geojson", self.outlines),
            Route(f"{SLIDE}/truth.geojson", self.truth),
        ]


def _shrunk(path: Path) -> bytes:
    """A run's thumbnail, smaller.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged.
    """
    data = read_bytes(path)
    try:
        return shrink(data)
    except OSError as e:
        raise ValueError(f"{path}: cannot read the picture: {e}") from e


def _stored_thumbnail(entry: Entry) -> tuple[Path, str]:
    """Thumbnail drawn by a run, and its version.

    Raises:
        FileNotFoundError: not drawn yet.
    """
    held = entry.runs.get(FIRST)
    path = None if held is None else held.find(RunDirectory.thumbnail)
    if held is None or path is None:
        raise FileNotFoundError(f"{entry.slide_id}: no thumbnail")
    return path, held.version_of(path)


def _outlined(entry: Entry) -> tuple[list[str], list[str]]:
    """Runs with readable outlines, and the errors of the others."""
    found: list[str] = []
    troubles: list[str] = []
    for run in entry.runs:
        try:
            exports.read_outlines(entry, run)
        except NoMap:
            continue
        except ValueError as e:
            troubles.append(f"cannot show the outlines: {e}")
        else:
            found.append(run)
    return found, troubles


def _scale_of(layers: Sequence[Layer]) -> tuple[float, float] | None:
    """Level-0 px per heatmap px of the first run; None without a heatmap."""
    for layer in layers:
        if layer.kind == "value" and layer.run == FIRST:
            return layer.l0_per_px_x, layer.l0_per_px_y
    return None


def image_payload(entry: Entry, info: SlideInfo | None, version: str) -> Json | None:
    """Payload of the slide's size and scale; None if unknown."""
    if entry.l0_size is None or entry.mpp is None:
        return None
    width, height = entry.l0_size
    known = info is None or info.mpp_x is not None
    return {
        "width": width,
        "height": height,
        "tile_size": TILE_PX,
        "overlap": OVERLAP,
        "max_level": max_level(width, height),
        "mpp_x": entry.mpp[0] if known else None,
        "mpp_y": entry.mpp[1] if known else None,
        "objective": None if info is None else info.objective_power,
        "version": version,
        "seen_version": seen_version(entry),
    }


def seen_version(entry: Entry) -> str:
    """Version of a slide's pixels as its network saw them; empty if as scanned."""
    if entry.stains is None:
        return ""
    return json_digest([stain.to_text() for stain in entry.stains])[:16]


def file_payload(info: SlideInfo | None) -> list[list[str]]:
    """Payload of the file's metadata: names and formatted values."""
    if info is None:
        return []
    scale = "not stated" if info.mpp_x is None else f"{info.mpp_x:.4g} µm/px"
    power = (
        [["objective", f"{info.objective_power:g}x"]] if info.objective_power else []
    )
    return [
        ["format", info.format],
        ["size", f"{info.width:,} x {info.height:,} px"],
        ["scale", scale],
        *power,
    ]
