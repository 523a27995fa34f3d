"""PNG and deflate data that is whole, or refused.

Pillow does not check the CRC of a PNG's pixels, nor libtiff the checksum of deflate.
"""

import struct
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLOCK_BYTES = 1 << 20


def check_png(file: BinaryIO) -> None:
    """Refuse a PNG of which a chunk is missing, cut short or wrong by its CRC.

    Args:
        file: at its start.

    Raises:
        OSError: names the chunk.
    """
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise OSError("no signature of a PNG")
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise OSError("cut short: the PNG has no end")
        length, name = struct.unpack(">I4s", head)
        crc, left = zlib.crc32(name), length
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            crc, left = zlib.crc32(block, crc), left - len(block)
        stated = file.read(4)
        if left or len(stated) < 4:
            raise OSError(f"cut short in the chunk {name!r}")
        if struct.unpack(">I", stated)[0] != crc:
            raise OSError(f"the chunk {name!r} is damaged, by its checksum")
        if name == b"IEND":
            return


def check_deflate(data: bytes) -> None:
    """Refuse a stream that is cut short, or wrong by its checksum.

    Raises:
        OSError: it is damaged; in zlib's words.
    """
    stream = zlib.decompressobj()
    try:
        while data and not stream.eof:
            stream.decompress(data, BLOCK_BYTES)
            data = stream.unconsumed_tail
    except zlib.error as e:
        raise OSError(str(e)) from e
    if not stream.eof:
        raise OSError("deflate data is cut short")
