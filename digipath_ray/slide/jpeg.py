"""JPEG data that is whole, or refused.

libjpeg only warns of most damage and fills up what is missing. Pillow and imagecodecs
hand that out as a picture; simplejpeg can be strict.
"""

import simplejpeg

START, END = b"\xff\xd8", b"\xff\xd9"
"""Markers of the start and end of an image."""


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
        simplejpeg.decode_jpeg(data, "GRAY", strict=True)
    except ValueError as e:
        raise OSError(str(e)) from e
