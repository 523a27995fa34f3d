"""What a DICOM file is, from the start of its header: whole slide image or another.

A series may have thousands of frames, described before the first pixel; pydicom would
read all of that. The tags that tell one slide from another come first in the file
(PS3.5 7.1: tags ascend), so a few kilobytes are enough, also of an object in a bucket.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC_BYTES = 132
"""Preamble of 128 bytes, and ``DICM``."""
HEADER_BYTES = 64 << 10
"""Read at first; the tags lie in the first few kilobytes."""
MAX_BYTES = 16 << 20
"""At most, where an icon or a private block comes before them."""
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
IMPLICIT, BIG_ENDIAN, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
KINDS = {
    "1.2.840.10008.1.3.10": "a DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.66.4": "a DICOM segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a DICOM label map segmentation",
    "1.2.840.10008.5.1.4.1.1.88.11": "a DICOM structured report",
    "1.2.840.10008.5.1.4.1.1.88.22": "a DICOM structured report",
    "1.2.840.10008.5.1.4.1.1.88.33": "a DICOM structured report",
    "1.2.840.10008.5.1.4.1.1.88.34": "a DICOM structured report",
    "1.2.840.10008.5.1.4.1.1.91.1": "DICOM bulk annotations",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF in DICOM",
    "1.2.840.10008.5.1.4.1.1.11.1": "a DICOM presentation state",
}
NOT_VOLUME = ("LABEL", "OVERVIEW", "THUMBNAIL")
"""Third value of ImageType of the images beside the slide's own levels."""

META_CLASS, META_SYNTAX = (0x0002, 0x0002), (0x0002, 0x0010)
IMAGE_TYPE, SOP_CLASS = (0x0008, 0x0008), (0x0008, 0x0016)
SERIES = (0x0020, 0x000E)
ROWS, COLUMNS = (0x0028, 0x0010), (0x0028, 0x0011)
LONG_LENGTH = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN",
               b"UR", b"UT", b"UV")  # fmt: skip
"""Value representations with a length of 4 bytes (PS3.5 7.1.2)."""
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)

Tag = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """What a DICOM file is.

    Attributes:
        sop_class: UID of what it holds.
        series: SeriesInstanceUID, the same for all levels of a slide.
        image_type: values of ImageType; empty if there are none.
    """

    sop_class: str
    series: str
    image_type: tuple[str, ...] = ()

    @property
    def is_slide(self) -> bool:
        """Whether it is a whole slide image: a level, a label or an overview."""
        return self.sop_class == WHOLE_SLIDE

    @property
    def is_level(self) -> bool:
        """Whether it is a level of a slide."""
        return self.is_slide and not any(t in NOT_VOLUME for t in self.image_type)

    @property
    def kind(self) -> str:
        """What it holds, in words."""
        return KINDS.get(self.sop_class, f"DICOM of class {self.sop_class}")


def may_be_dicom(name: str) -> bool:
    """Whether a file of that name may be DICOM: .dcm, no suffix, or a UID as name."""
    suffix = Path(name).suffix.lower()
    return suffix in (".dcm", ".dicom", "") or suffix[1:].isdigit()


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts with these 132 bytes is DICOM."""
    return start[128:132] == b"DICM"


def read_header(path: Path) -> DicomHeader | None:
    """Header of a file; None if it is no DICOM, or damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(HEADER_BYTES)
        while (header := parse_header(data)) is None and is_dicom(data):
            more = file.read(len(data)) if len(data) < MAX_BYTES else b""
            if not more:
                return parse_header(data, whole=True)
            data += more
        return header


def read_frame_size(path: Path) -> tuple[int, int] | None:
    """Rows and columns of the frames of a file; None if it does not say, or is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(HEADER_BYTES)
        while True:
            try:
                found, order = _read_wanted(data, (ROWS, COLUMNS))
                rows, columns = (
                    struct.unpack(f"{order}H", found[tag])[0] for tag in (ROWS, COLUMNS)
                )
                return rows, columns
            except KeyError:
                return None
            except struct.error:  # the bytes end within an element
                more = file.read(len(data)) if len(data) < MAX_BYTES else b""
                if not (more and is_dicom(data)):
                    return None
                data += more


def parse_header(data: bytes, *, whole: bool = False) -> DicomHeader | None:
    """Header from the first bytes of a file; None if it is not in them.

    Args:
        data: the first bytes.
        whole: whether the file ends with them, so that no series may follow.
    """
    if not is_dicom(data):
        return None
    try:
        wanted = (IMAGE_TYPE, SOP_CLASS, SERIES)
        values, _ = _read_wanted(data, wanted, whole=whole)
        meta, _ = _read_meta(data)
    except struct.error:  # the bytes end within an element
        return None
    found = {tag: _as_text(value) for tag, value in values.items()}
    sop_class = found.get(SOP_CLASS) or meta.get(META_CLASS, "")
    if not sop_class:
        return None
    kinds = found.get(IMAGE_TYPE, "")
    return DicomHeader(
        sop_class=sop_class,
        series=found.get(SERIES, ""),
        image_type=tuple(k.strip() for k in kinds.split("\\")) if kinds else (),
    )


def _read_meta(data: bytes) -> tuple[dict[Tag, str], int]:
    """Values of group 2, which is always explicit and little-endian; and its end."""
    found, at = {}, MAGIC_BYTES
    while struct.unpack_from("<H", data, at)[0] == 2:
        tag, length, at = _read_tag(data, at, explicit=True, order="<")
        found[tag] = _as_text(_value(data, at, length))
        at += length
    return found, at


def _read_wanted(
    data: bytes, wanted: tuple[Tag, ...], *, whole: bool = False
) -> tuple[dict[Tag, bytes], str]:
    """Values of some tags, none if the file is deflated, and struct's byte order.

    Raises:
        struct.error: the bytes end before the last of them.
    """
    meta, at = _read_meta(data)
    syntax = meta.get(META_SYNTAX, "")
    explicit, order = syntax != IMPLICIT, ">" if syntax == BIG_ENDIAN else "<"
    found: dict[Tag, bytes] = {}
    if syntax == DEFLATED:
        return found, order
    while not (whole and at == len(data)):  # the end of a file without them
        tag, length, at = _read_tag(data, at, explicit=explicit, order=order)
        if tag > max(wanted):
            break
        if length == UNDEFINED:
            at = _skip_items(data, at, explicit=explicit, order=order)
            continue
        if tag in wanted:
            found[tag] = _value(data, at, length)
        at += length
    return found, order


def _read_tag(
    data: bytes, at: int, *, explicit: bool, order: str
) -> tuple[Tag, int, int]:
    """Tag and length of an element, and where its value starts."""
    tag: Tag = struct.unpack_from(f"{order}HH", data, at)
    kind = bytes(data[at + 4 : at + 6])
    if not explicit or tag[0] == 0xFFFE:  # items have no value representation
        return tag, struct.unpack_from(f"{order}I", data, at + 4)[0], at + 8
    if kind in LONG_LENGTH:
        return tag, struct.unpack_from(f"{order}I", data, at + 8)[0], at + 12
    return tag, struct.unpack_from(f"{order}H", data, at + 6)[0], at + 8


def _skip_items(data: bytes, at: int, *, explicit: bool, order: str) -> int:
    """End of a sequence of undefined length that starts at ``at``."""
    while True:
        tag, length, at = _read_tag(data, at, explicit=explicit, order=order)
        if tag == SEQUENCE_END:
            return at
        if tag != ITEM:
            raise struct.error("no item in a sequence")
        if length != UNDEFINED:
            at += length
            continue
        while True:
            tag, length, at = _read_tag(data, at, explicit=explicit, order=order)
            if tag == ITEM_END:
                break
            if length == UNDEFINED:
                at = _skip_items(data, at, explicit=explicit, order=order)
            else:
                at += length


def _value(data: bytes, at: int, length: int) -> bytes:
    value = data[at : at + length]
    if len(value) < length:
        raise struct.error("cut short")
    return value


def _as_text(value: bytes) -> str:
    return value.decode("ascii", "replace").rstrip("\0 ")
