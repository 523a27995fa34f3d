"""Damage that knows the format: fields of TIFF, JPEG, PNG, BMP, Parquet and others.

Checksums over what was changed are made right again, so that the value itself is met.
"""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutations import (
    BYTES,
    SECRET,
    TEXTS,
    XML,
    Mutant,
    Mutator,
    Seed,
    change_json,
    flip_checked,
    text_values,
)

EXTREMES = (0, 1, 2, 3, 15, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
TELLING = (256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 282, 284, 296, 322, 323,
           324, 325, 330, 338, 339, 347)  # fmt: skip
"""TIFF tags that say where pixels are and what they mean."""
DESCRIPTION = 270


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Where the fields of a TIFF are.

    Attributes:
        order: "<" or ">".
        is_big: BigTIFF.
        entries: byte of each tag, in all directories of the chain and their SubIFDs.
        links: byte of each pointer to a directory.
    """

    order: str
    is_big: bool
    entries: tuple[int, ...]
    links: tuple[int, ...]

    @property
    def word(self) -> str:
        """struct's format of a count or an offset."""
        return self.order + ("Q" if self.is_big else "I")

    @property
    def value_at(self) -> int:
        """Byte of a tag's value in its entry."""
        return 12 if self.is_big else 8


def find_tags(data: bytes) -> Tags:
    """The fields of a valid TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    word, size = order + ("Q" if is_big else "I"), 20 if is_big else 12
    many, few = (order + "Q", 8) if is_big else (order + "H", 2)
    entries: list[int] = []
    links = [8 if is_big else 4]
    for link in links:  # grows while it is read
        at = struct.unpack_from(word, data, link)[0]
        if at == 0:
            continue
        count = struct.unpack_from(many, data, at)[0]
        here = [at + few + size * i for i in range(count)]
        entries += here
        for entry in here:
            tag, _, found = struct.unpack_from(order + "HH" + word[1], data, entry)
            if tag == 330:  # SubIFDs
                value = entry + (12 if is_big else 8)
                step = struct.calcsize(word)
                if found > 1:
                    value = struct.unpack_from(word, data, value)[0]
                links += [value + step * i for i in range(found)]
        links.append(at + few + size * count)
    return Tags(order=order, is_big=is_big, entries=tuple(entries), links=tuple(links))


def tiff_fields(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Change one to three tags: their number, type, count, value or offset."""
    tags, data, done = find_tags(seed.data), bytearray(seed.data), []
    largest = struct.calcsize(tags.word) * 8
    for _ in range(rng.randint(1, 3)):
        entry = rng.choice(tags.entries)
        tag = struct.unpack_from(tags.order + "H", data, entry)[0]
        if tag not in TELLING and rng.random() < 0.7:
            continue
        value = rng.choice((*EXTREMES, rng.getrandbits(largest), len(data) - 4))
        field = rng.choice(("tag", "type", "count", "value", "value", "value", "list"))
        if field == "tag":
            struct.pack_into(tags.order + "H", data, entry, rng.choice(TELLING))
        elif field == "type":
            struct.pack_into(tags.order + "H", data, entry + 2, rng.randrange(20))
        elif field == "count":
            struct.pack_into(tags.word, data, entry + 4, value)
        elif field == "value":
            struct.pack_into(tags.word, data, entry + tags.value_at, value)
        else:
            at = struct.unpack_from(tags.word, data, entry + tags.value_at)[0]
            if at + 8 < len(data):
                struct.pack_into(tags.word, data, at, value)
        done.append(f"{field} of tag {tag} = {value}")
    return Mutant(data=bytes(data), what="; ".join(done) or "nothing")


def tiff_sizes(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Give an image or its tiles another width and height, as a whole number."""
    tags, data = find_tags(seed.data), bytearray(seed.data)
    pair = rng.choice(((256, 257), (256, 257), (322, 323), (256,), (257,), (278,)))
    sizes = [rng.choice((*EXTREMES, 1 << 15, 1 << 20, 1 << 24)) for _ in pair]
    for entry in tags.entries:
        tag = struct.unpack_from(tags.order + "H", data, entry)[0]
        if tag in pair and rng.random() < 0.7:
            size = sizes[pair.index(tag)]
            struct.pack_into(tags.order + "H", data, entry + 2, 4)
            struct.pack_into(tags.order + "I", data, entry + tags.value_at, size)
    return Mutant(data=bytes(data), what=f"tags {pair} = {sizes}")


def tiff_links(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Point a directory at itself, at another one, or beyond the file."""
    tags, data = find_tags(seed.data), bytearray(seed.data)
    known = [struct.unpack_from(tags.word, data, link)[0] for link in tags.links]
    link = rng.choice(tags.links)
    target = rng.choice((*known, *known, 1, 7, len(data), 2**31 - 1, 2**32 - 1))
    struct.pack_into(tags.word, data, link, target)
    return Mutant(data=bytes(data), what=f"directory at byte {link} -> {target}")


def tiff_text(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Damage an image description (Aperio's, Leica's XML, OME-XML) as text."""
    tags, data = find_tags(seed.data), bytearray(seed.data)
    at = [e for e in tags.entries if data[e : e + 2] == _half(tags, DESCRIPTION)]
    if not at:
        return tiff_fields(seed, others, rng)
    entry = at[0]
    count = struct.unpack_from(tags.word, data, entry + 4)[0]
    if count <= struct.calcsize(tags.word):
        return tiff_fields(seed, others, rng)
    start = struct.unpack_from(tags.word, data, entry + tags.value_at)[0]
    text = Seed(name="text", data=bytes(data[start : start + count]).rstrip(b"\0"))
    mutant = rng.choice(XML)(text, [text], rng)
    new = mutant.data + b"\0"
    struct.pack_into(tags.word, data, entry + 4, len(new))
    struct.pack_into(tags.word, data, entry + tags.value_at, len(data))
    return Mutant(data=bytes(data) + new, what=f"description: {mutant.what}")


def _half(tags: Tags, value: int) -> bytes:
    return struct.pack(tags.order + "H", value)


TIFF: tuple[Mutator, ...] = (
    *(tiff_fields,) * 3, *(tiff_sizes,) * 2, tiff_links, tiff_text, flip_checked,
    *BYTES,
)  # fmt: skip


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, byte of its length) of a JPEG up to its pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        yield data[at + 1], at + 2
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at : at + 2] == b"\xff\xda":
            return


def jpeg_fields(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Change the size, the components, or any byte of a segment before the pixels."""
    data, known = bytearray(seed.data), list(segments(seed.data))
    sof = next(at for marker, at in known if 0xC0 <= marker <= 0xC2)
    field = rng.choice(("size", "size", "components", "length", "byte"))
    if field == "size":
        sizes = [rng.choice((0, 1, 17, 4096, 32_000, 65_500, 65_535)) for _ in "hw"]
        struct.pack_into(">HH", data, sof + 3, *sizes)
        return Mutant(data=bytes(data), what=f"height and width {sizes}")
    marker, at = rng.choice(known)
    if field == "components":
        data[sof + 7 + rng.randrange(8)] = rng.randrange(256)
    elif field == "length":
        struct.pack_into(">H", data, at, rng.choice((0, 1, 2, 9, 65_535)))
    else:
        data[min(len(data) - 1, at + rng.randrange(40))] = rng.randrange(256)
    return Mutant(data=bytes(data), what=f"{field} of segment {marker:x}")


JPEG: tuple[Mutator, ...] = (*(jpeg_fields,) * 4, *BYTES)


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, length) of the chunks of a PNG."""
    at = 8
    while at + 8 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        yield data[at + 4 : at + 8], at + 8, length
        at += 12 + length


def png_fields(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Change a header's value under a right CRC, or a chunk's length."""
    data, known = bytearray(seed.data), list(chunks(seed.data))
    name, at, length = rng.choice(known[:3])
    if rng.random() < 0.2:
        struct.pack_into(">I", data, at - 8, rng.choice(EXTREMES))
        return Mutant(data=bytes(data), what=f"length of {name!r}")
    if name == b"IHDR" and rng.random() < 0.6:
        sizes = [rng.choice((*EXTREMES, 1 << 14, 1 << 15)) for _ in "wh"]
        struct.pack_into(">II", data, at, *sizes)
        what = f"width and height {sizes}"
    else:
        data[at + rng.randrange(max(1, min(length, 16)))] = rng.randrange(256)
        what = f"a byte of {name!r}"
    crc = zlib.crc32(data[at - 4 : at + length])
    struct.pack_into(">I", data, at + length, crc)
    return Mutant(data=bytes(data), what=what)


PNG: tuple[Mutator, ...] = (*(png_fields,) * 4, *(flip_checked,) * 2, *BYTES)


def bmp_fields(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    data = bytearray(seed.data)
    at = rng.choice((2, 10, 14, 18, 18, 22, 22, 26, 28, 30, 34, 46, 50))
    value = rng.choice(EXTREMES)
    struct.pack_into("<I", data, at, value)
    return Mutant(data=bytes(data), what=f"field at {at} = {value}")


BMP: tuple[Mutator, ...] = (*(bmp_fields,) * 3, *BYTES)


def dicom_numbers(data: bytes) -> list[tuple[int, int]]:
    """(byte, length) of the whole numbers among the elements of a valid DICOM file."""
    found, at = [], 132
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 6]
        if kind in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            length, start = struct.unpack_from("<I", data, at + 8)[0], at + 12
        else:
            length, start = struct.unpack_from("<H", data, at + 6)[0], at + 8
        if kind in (b"US", b"UL"):
            found.append((start, length))
        at = start + length
    return found


def dicom_fields(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Other rows, columns, frames, samples or bits."""
    data, done = bytearray(seed.data), []
    for _ in range(rng.randint(1, 2)):
        at, length = rng.choice(dicom_numbers(seed.data))
        value = rng.choice((0, 1, 2, 255, 32_767, 65_535, 2**31 - 1, 2**32 - 1))
        value &= (1 << 8 * length) - 1
        struct.pack_into("<H" if length == 2 else "<I", data, at, value)
        done.append(f"{value} at {at}")
    return Mutant(data=bytes(data), what="; ".join(done))


DICOM: tuple[Mutator, ...] = (*(dicom_fields,) * 3, *BYTES)


def mirax_fields(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Values of Slidedat.ini; numbers of the index."""
    if seed.name.endswith(".ini"):
        return text_values(r"(?m) = (.*)$")(seed, others, rng)
    data = bytearray(seed.data)
    at = len(data) - 4 * rng.randint(1, min(30, len(data) // 4))
    value = rng.choice((*EXTREMES, len(data)))
    struct.pack_into("<I", data, at, value)
    return Mutant(data=bytes(data), what=f"{value} at {at}")


MIRAX: tuple[Mutator, ...] = (*(mirax_fields,) * 3, *BYTES)


def parquet_footer(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Another footer length, or bytes of the footer flipped."""
    data = bytearray(seed.data)
    length = struct.unpack_from("<I", data, len(data) - 8)[0]
    if rng.random() < 0.4:
        value = rng.choice((*EXTREMES, length - 1, length + 1))
        struct.pack_into("<I", data, len(data) - 8, value)
        return Mutant(data=bytes(data), what=f"footer length {value}")
    for _ in range(rng.randint(1, 4)):
        data[len(data) - 8 - rng.randrange(length) - 1] ^= 1 << rng.randrange(8)
    return Mutant(data=bytes(data), what="bits of the footer flipped")


def parquet_values(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """A whole file of another content: a column of other values, type or name."""
    table = pq.read_table(io.BytesIO(seed.data))
    at = rng.randrange(table.num_columns)
    name, rows = table.column_names[at], table.num_rows
    dice = rng.random()
    if dice < 0.1:
        table, what = table.drop_columns([name]), f"no column {name}"
    elif dice < 0.2:
        table, what = table.append_column(name, table[name]), f"{name} twice"
    elif dice < 0.3:
        table, what = table.slice(0, 0), "no row"
    elif dice < 0.4:
        table, what = pa.concat_tables([table, table]), "rows twice"
    else:
        odd: Any = rng.choice(
            (
                None,
                "",
                float("nan"),
                float("inf"),
                -1,
                0,
                2**62,
                -(2**62),
                1e308,
                b"\xff",
                rng.choice(TEXTS),
                [None],
                [1.0],
                {"a": 1},
                True,
            )
        )
        table = table.set_column(at, name, pa.array([odd] * rows))
        what = f"{name} = {odd!r:.60}"
    out = io.BytesIO()
    pq.write_table(table, out)
    return Mutant(data=out.getvalue(), what=what)


def parquet_note(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Another JSON in the metadata of the schema, or none."""
    table = pq.read_table(io.BytesIO(seed.data))
    known = dict(table.schema.metadata or {})
    texts = [k for k, v in known.items() if v.startswith(b"{") and k != b"pandas"]
    if not texts:
        return parquet_values(seed, others, rng)
    key = rng.choice(texts)
    if rng.random() < 0.1:
        del known[key]
    else:
        known[key] = json.dumps(change_json(json.loads(known[key]), rng)).encode()
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(known), out)
    return Mutant(data=out.getvalue(), what=f"metadata {key.decode()}")


PARQUET: tuple[Mutator, ...] = (
    *(parquet_values,) * 4, *(parquet_note,) * 2, *(parquet_footer,) * 2, *BYTES,
)  # fmt: skip


def safetensors_header(
    seed: Seed, others: Sequence[Seed], rng: random.Random
) -> Mutant:
    """Another length of the header, or offsets, shapes and types in it."""
    length = struct.unpack_from("<Q", seed.data)[0]
    header, rest = json.loads(seed.data[8 : 8 + length]), seed.data[8 + length :]
    if rng.random() < 0.3:
        value = rng.choice(
            (0, 1, length - 1, length + 8, 2**31, 2**40, 2**63, 2**64 - 1)
        )
        return Mutant(
            data=struct.pack("<Q", value) + seed.data[8:], what=f"header length {value}"
        )
    name = rng.choice([k for k in header if k != "__metadata__"])
    entry, what = header[name], rng.choice(("offsets", "shape", "dtype", "any", "any"))
    start, stop = entry["data_offsets"]
    if what == "offsets":
        odd = ((0, stop), (start, 2**40), (stop, start), (-1, stop), (start, stop - 4))
        entry["data_offsets"] = rng.choice(odd)
    elif what == "shape":
        entry["shape"] = rng.choice(([], [0], [2**31, 2**31], [-1], [2**62], [1] * 64))
    elif what == "dtype":
        entry["dtype"] = rng.choice(("F64", "F16", "I8", "BOOL", "Q9", "F8_E4M3", ""))
    else:
        header = change_json(header, rng)
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + rest
    return Mutant(data=data, what=f"{what} of {name}")


SAFETENSORS: tuple[Mutator, ...] = (*(safetensors_header,) * 3, *BYTES)


def zip_schema(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """A member of a zip changed, under right checksums: JSON by its values."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed.data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(["schema.json"] * 4 + list(files))
    if name == "schema.json":
        changed = json.loads(files[name])
        for _ in range(rng.randint(1, 3)):
            changed = change_json(changed, rng)
        files[name] = json.dumps(changed).encode()
    else:
        inner = Seed(name=name, data=files[name])
        files[name] = rng.choice(BYTES)(inner, [inner], rng).data
    if rng.random() < 0.05:
        files[rng.choice(("../outside", "/tmp/outside", SECRET))] = b"x"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in files.items():
            archive.writestr(each, data)
    return Mutant(data=out.getvalue(), what=f"{name} in the archive")


ZIP: tuple[Mutator, ...] = (*(zip_schema,) * 4, *BYTES)
