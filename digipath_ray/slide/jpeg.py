"""JPEG data that is whole, or refused.

libjpeg only warns of most damage and fills up what is missing. Pillow and imagecodecs
hand that out as a picture; simplejpeg can be strict.
"""

import simplejpeg

from digipath_ray.slide.info import Pixels

JPEG = 7
"""TIFF's number of the compression."""
START, END = b"\xff\xd8", b"\xff\xd9"
"""Markers of the start and end of an image."""
PADDING = b"\0\xff"
"""Bytes that encoders put before the end, to fill up to a whole word."""


def decode_jpeg(data: bytes, color: str = "RGB") -> Pixels:
    """Decode a JPEG, RGB [height, width, 3] or GRAY [height, width, 1].

    Raises:
        ValueError: data of it is missing or wrong; in libjpeg's words.
    """
    try:
        return _decode(data, color)
    except ValueError:
        # Padding is more data than the picture needs, but no damage.
        bare = data.removesuffix(END).rstrip(PADDING) + END
        if not data.endswith(END) or bare == data:
            raise
        return _decode(bare, color)


def _decode(data: bytes, color: str) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, color, strict=True)
    return pixels


def check_jpeg(data: bytes, tables: bytes | None = None) -> None:
    """Refuse a JPEG of which data is missing or wrong.

    Args:
        data: the JPEG, or a tile of a TIFF.
        tables: that the TIFF's tiles share.

    Raises:
        OSError: it is damaged; in libjpeg's words.
    """
    if tables:
        data = tables.removesuffix(END) + data.removeprefix(START)
    try:
        # Gray is the cheapest; all of the data has to be read for it.
        decode_jpeg(data, "GRAY")
    except ValueError as e:
        raise OSError(str(e)) from e
