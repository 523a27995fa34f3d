"""Small slides of Hamamatsu's kind (NDPI): a JPEG per level, pointers of 64 bits."""

import io
import struct
from collections.abc import Mapping, Sequence

from PIL import Image

from tests.slides import Pixels

ASCII = 2
MACRO = -1.0
"""Source lens of the picture of the whole glass, its label with it."""


def ndpi_bytes(
    levels: Sequence[tuple[Pixels, float]],
    *,
    mpp: float,
    texts: Mapping[int, str] | None = None,
) -> bytes:
    """An NDPI file.

    Args:
        levels: pixels [height, width, 3] and the lens that they were seen with, the
            finest level first.
        mpp: um per px of the first.
        texts: number of a tag -> what it says, in each directory.
    """
    head = b"II*\0"
    data = bytearray(head + bytes(8))  # the first pointer
    link = len(head)
    for pixels, lens in levels:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=85)
        strip = len(data)
        data += out.getvalue()
        height, width = pixels.shape[:2]
        per_cm = round(10_000 / mpp * width / levels[0][0].shape[1])
        shorts, ratio = len(data), len(data) + 6
        data += struct.pack("<3H", 8, 8, 8) + struct.pack("<II", per_cm, 1)
        said = []
        for number, text in (texts or {}).items():
            coded = text.encode() + b"\0"
            said.append((number, ASCII, len(coded), len(data)))
            data += coded
        tags = sorted([
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, shorts),
            (259, 3, 1, 7), (262, 3, 1, 6), (273, 4, 1, strip), (277, 3, 1, 3),
            (278, 4, 1, height), (279, 4, 1, len(out.getvalue())), (282, 5, 1, ratio),
            (283, 5, 1, ratio), (296, 3, 1, 3), (65420, 4, 1, 1),
            (65421, 11, 1, _float_bits(lens)), (65422, 9, 1, 0),
            (65423, 9, 1, 0), (65424, 9, 1, 0), *said,
        ])  # fmt: skip
        struct.pack_into("<Q", data, link, len(data))
        data += struct.pack("<H", len(tags))
        data += b"".join(struct.pack("<HHII", *tag) for tag in tags)
        link = len(data)
        data += bytes(8 + 4 * len(tags))  # the next pointer; high halves of the values
    return bytes(data)


def _float_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])
