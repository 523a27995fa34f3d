"""Tiles and thumbnails of slides as JPEG, cached."""

import numpy as np
from PIL import Image

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.slide.image import decode_picture
from digipath_ray.slide.open import Pixels, Slide
from digipath_ray.stain.estimate import StainEstimate
from digipath_ray.stain.normalize import map_stains, normalize_pixels
from digipath_ray.viewer.tiles.lru import LruCache
from digipath_ray.viewer.tiles.pool import SlidePool
from digipath_ray.viewer.tiles.pyramid import Levels, encode_jpeg, read_shrunk

THUMBNAIL_PX = 320
"""Longer side of a thumbnail in the table, px."""


class Tiles:
    """Tiles and thumbnails of slides as JPEG, cached."""

    def __init__(self, pool: SlidePool, *, most_bytes: int = 128 << 20) -> None:
        self.pool = pool
        self.kept: LruCache[bytes] = LruCache(most_bytes, len)

    def tile(
        self,
        row: SlideRow,
        level: int,
        col: int,
        at_row: int,
        *,
        stains: tuple[StainEstimate, StainEstimate] | None = None,
    ) -> bytes:
        """Encode a DeepZoom tile as JPEG; with two ``stains`` brought to the second.

        Raises:
            NoTile: the tile does not exist.
            SlideError: the slide cannot be read there.
            OSError: its bucket cannot be reached.
        """

        def make() -> bytes:
            with self.pool.use(row) as tiled:
                pixels = tiled.tile(level, col, at_row)
            if stains is not None:
                pixels = normalize_pixels(pixels, map_stains(*stains))
            return encode_jpeg(pixels)

        version = self.pool.version(row)
        return self.kept.make((version, level, col, at_row, stains), make)

    def thumbnail(self, row: SlideRow) -> bytes:
        """Thumbnail of the whole slide as JPEG; errors as :meth:`tile`."""

        def make() -> bytes:
            with self.pool.use(row) as tiled:
                return encode_jpeg(_overview(tiled.slide))

        return self.kept.make((self.pool.version(row), "thumbnail"), make)


def _overview(slide: Slide) -> Pixels:
    info = slide.info
    scale = max(info.width, info.height, THUMBNAIL_PX) / THUMBNAIL_PX
    level = Levels(info).get_best_level_for_downsample(scale)
    width, height = info.level_dimensions[level]
    size = (max(1, round(info.width / scale)), max(1, round(info.height / scale)))
    return read_shrunk(slide, level, (0, 0, width, height), size)


def shrink(thumbnail: bytes) -> bytes:
    """Shrink a JPEG to at most THUMBNAIL_PX: a table shows hundreds.

    Raises:
        OSError: not an image.
    """
    image = Image.fromarray(decode_picture(thumbnail))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return encode_jpeg(np.asarray(image))
