"""What an ONNX file says of itself, read without running it.

A model may keep its tensors in other files beside it, which belong to it as much as
its own bytes: all of them are fetched, and are in its digest. Only the few fields of
the protocol buffer that say so are read (https://onnx.ai/onnx/repo-docs/IR.html,
onnx.proto); nothing is evaluated.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Field number -> what it holds, of the messages on the way to a tensor.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"}
    | {22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_IR_VERSION, _PRODUCER, _GRAPH, _OPSETS = 1, 2, 7, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class OnnxHeader:
    """What the file says.

    Attributes:
        producer: the program that wrote it; may be empty.
        opsets: domain of operators -> version; the standard one is "".
        external: files with its tensors, relative to its folder, in order.
    """

    producer: str
    opsets: dict[str, int]
    external: tuple[str, ...]


def read_header(path: Path) -> OnnxHeader:
    """The header of an ONNX file on a disk.

    Raises:
        ValueError: it is no ONNX file, or names data outside its folder.
        OSError: it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"weights {path}: an empty file")
    with path.open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(whole)
        try:
            return _header(view)
        except (ValueError, UnicodeDecodeError) as e:
            raise ValueError(f"weights {path}: {e}") from e
        finally:
            view.release()


def _header(model: memoryview) -> OnnxHeader:
    version, producer, opsets, graphs = 0, "", dict[str, int](), 0
    for number, value in _fields(model):
        if number == _IR_VERSION and isinstance(value, int):
            version = value
        elif number == _PRODUCER and not isinstance(value, int):
            producer = str(value, "utf-8")
        elif number == _OPSETS and not isinstance(value, int):
            said = dict(_fields(value))
            domain, opset = said.get(1, b""), said.get(2, 0)
            if isinstance(opset, int) and not isinstance(domain, int):
                opsets[str(domain, "utf-8")] = opset
        elif number == _GRAPH:
            graphs += 1
    if not version or graphs != 1:
        raise ValueError("not an ONNX model: no IR version, or no graph")
    names = sorted({_checked(name) for name in _external(model)})
    return OnnxHeader(producer=producer, opsets=opsets, external=tuple(names))


def _external(model: memoryview) -> Iterator[str]:
    """Yield the location of each tensor that lies in another file."""
    todo: list[tuple[str, memoryview]] = [("model", model)]
    while todo:
        kind, message = todo.pop()
        parts = _PARTS[kind]
        for number, value in _fields(message):
            part = parts.get(number)
            if part is None or isinstance(value, int):
                continue
            if part != "entry":
                todo.append((part, value))
                continue
            entry = dict(_fields(value))
            key, location = entry.get(1, b""), entry.get(2, b"")
            if isinstance(key, int) or isinstance(location, int):
                continue
            if bytes(key) == b"location":
                yield str(location, "utf-8")


def _checked(name: str) -> str:
    """A location of external data inside the model's folder."""
    path = PurePosixPath(name)
    wrong = path.is_absolute() or ".." in path.parts or not path.parts
    if wrong or "\\" in name or ":" in name or "\0" in name:
        raise ValueError(
            f"its external data {name!r} lie outside its folder: save the model again "
            "with its data beside it (onnx.save_model(..., location='NAME.data'))"
        )
    return str(path)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a message of protocol buffers."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("not an ONNX model, or damaged")
        if at + size > end:
            raise ValueError("not an ONNX model, or cut short")
        if kind == _BYTES:
            yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("not an ONNX model, or cut short")
        byte = message[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("not an ONNX model, or damaged")
