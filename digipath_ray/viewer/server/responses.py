"""Parsing of requests, and responses: blobs, tiles, errors."""

import io
import json
import logging
import re
from dataclasses import dataclass

from PIL import Image, ImageDraw
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from digipath_ray.run.failure import explain_os_error
from digipath_ray.viewer.collection.snapshot import Json
from digipath_ray.viewer.server.middleware import refuse
from digipath_ray.viewer.tiles.layers import At
from digipath_ray.viewer.tiles.pyramid import TILE_PX

log = logging.getLogger(__name__)

TILE = re.compile("([0-9]{1,7})_([0-9]{1,7})")
LEVEL = re.compile("[0-9]{1,2}")
FOREVER = "private, max-age=31536000, immutable"
ASK_AGAIN = "private, no-cache"
HINTS = {
    405: "use the page",
    499: "ask again",
    503: "wait a second and ask again",
}


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes to send; None if the browser has them cached."""

    version: str
    tag: str
    data: bytes | None


async def body_of(request: Request) -> Json:
    """Parse the JSON object of a POST.

    Raises:
        HTTPException: not a JSON object.
    """
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as e:
        raise HTTPException(400, "the POST body is not JSON") from e
    if not isinstance(body, dict):
        raise HTTPException(400, "the POST body is not a JSON object")
    return body


def tile_of(request: Request) -> At:
    """Parse level, column and row of a tile URL.

    Raises:
        HTTPException: they are not numbers.
    """
    level = request.path_params["level"]
    place = TILE.fullmatch(request.path_params["tile"])
    if place is None or not LEVEL.fullmatch(level):
        raise HTTPException(404, "tile not found")
    return At(int(level), int(place[1]), int(place[2]))


def number_of(request: Request, name: str) -> float:
    """Parse a finite number of the query.

    Raises:
        HTTPException: missing, or not a finite number.
    """
    try:
        value = float(request.query_params.get(name, ""))
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise HTTPException(400, f"{name}: must be a number, level-0 px")
    return value


def blob_response(request: Request, blob: Blob, kind: str) -> Response:
    """Response of bytes with caching headers.

    A URL with a version (``?v=``) is immutable; without one the browser revalidates by
    ETag.
    """
    named = request.query_params.get("v") == blob.version
    headers = {"etag": blob.tag, "cache-control": FOREVER if named else ASK_AGAIN}
    if blob.data is None:
        return Response(status_code=304, headers=headers)
    return Response(blob.data, media_type=kind, headers=headers)


def hint_of(error: Exception) -> str:
    """Fix for an error."""
    if isinstance(error, OSError):
        return explain_os_error(error)
    return str(getattr(error, "hint", "recompute the slide"))


def draw_error(text: str) -> bytes:
    """Draw an error text as a JPEG tile."""
    image = Image.new("RGB", (TILE_PX, TILE_PX), (238, 238, 238))
    pen = ImageDraw.Draw(image)
    words, line, y = text.split(), "", TILE_PX // 2 - 20
    pen.text((24, y - 24), "This part of the slide cannot be read.", fill=(90, 0, 0))
    for word in [*words, ""]:
        if word and len(f"{line} {word}") <= 70:
            line = f"{line} {word}".strip()
            continue
        pen.text((24, y), line, fill=(60, 60, 60))
        line, y = word, y + 16
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


async def http_error_response(request: Request, error: Exception) -> Response:
    """JSON response to an HTTP error."""
    assert isinstance(error, HTTPException)
    hint = HINTS.get(error.status_code, "reload the page")
    return refuse(error.status_code, error.detail, hint, **(error.headers or {}))


async def no_map_response(request: Request, error: Exception) -> Response:
    """JSON response to a missing map, tile or file."""
    return refuse(404, str(error), "reload the page: the run may have changed")


async def damaged_response(request: Request, error: Exception) -> Response:
    """JSON response to a damaged file."""
    log.warning("%s", error)
    return refuse(500, str(error), hint_of(error))


async def fetching_response(request: Request, error: Exception) -> Response:
    """JSON response while a slide is being downloaded."""
    wait = {"retry-after": "3"}
    return refuse(
        503,
        str(error),
        "wait: the slide is shown when the download has finished",
        **wait,
    )


async def os_error_response(request: Request, error: Exception) -> Response:
    """JSON response to an unreadable file."""
    log.warning("%s", error)
    return refuse(500, str(error), hint_of(error))
