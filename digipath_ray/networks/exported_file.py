"""A program of ``torch.export``, read as data.

``torch.export.load`` unpickles parts of such a file, evaluates the text of its
expressions and writes Python from its names: whoever made the file could run code here
(torch's own warning: never load data from an untrusted source). This reader takes the
graph, which is JSON, and tensors that are plain bytes, and refuses the rest. The layout
is that of torch/_export/serde/schema.py, version 8.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SCHEMA_MAJOR = 8
"""Torch changes this number where an older reader would go wrong."""
MAX_BYTES = 1 << 36
"""Of a part of the file, 64 GiB."""

# Numbers of torch/_export/serde/schema.py.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    4: torch.preserve_format,
}
STRIDED = 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A graph and its tensors.

    Attributes:
        nodes: one operation each, in order.
        tensors: name in the graph -> weight, buffer or constant.
        pixels: name in the graph of the one input.
        dtype: of this input.
        sizes: of this input: a number, or (least, most) of what it may be; most is None
            without a limit.
        answer: name in the graph of the one output.
        torch_version: that wrote it.
    """

    nodes: tuple[dict[str, Any], ...]
    tensors: dict[str, Tensor]
    pixels: str
    dtype: torch.dtype
    sizes: tuple[int | tuple[int, int | None], ...]
    answer: str
    torch_version: str


def read_program(path: Path) -> Program:
    """The program of a .pt2 file.

    Raises:
        ValueError: no such program, or one that cannot be read without a pickle; says
            how to export it.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(_Parts(archive))
    except zipfile.BadZipFile as e:
        raise ValueError(
            f"weights {path}: not a program of torch.export: export it with "
            "torch.export.save(torch.export.export(model.eval(), (pixels,)), FILE)"
        ) from e
    except ValueError as e:
        raise ValueError(f"weights {path}: {e}") from e
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as e:
        raise ValueError(
            f"weights {path}: a damaged program, or one of another version of torch: "
            f"{type(e).__name__}: {e}"
        ) from e


class _Parts:
    """The parts of an archive, by their names in it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        if any(n.endswith(("/constants.pkl", "/data.pkl")) for n in names):
            what = "TorchScript" if any("/code/" in n for n in names) else "a pickle"
            raise ValueError(
                f"{what}, which may hold code, and no program of torch.export: load "
                "the model where you trust it, and torch.export.save("
                "torch.export.export(model.eval(), (pixels,)), 'NAME.pt2'), or "
                "torch.onnx.export it"
            )
        graphs = [n for n in names if "/models/" in n and n.endswith(".json")]
        if len(graphs) != 1:
            raise ValueError(
                f"{len(graphs)} programs in the file, not one: export it again by "
                "torch.export.save of torch 2.9 or later"
            )
        self.archive = archive
        self.root, _, self.model = graphs[0].partition("/models/")
        self.model = self.model.removesuffix(".json")
        self.names = set(names)
        if any("/aotinductor/" in n for n in names):
            raise ValueError(
                "holds compiled machine code (AOTInductor): export the program alone, "
                "by torch.export.save"
            )

    def read(self, name: str) -> bytes:
        """Bytes of a part; torch compresses none, so what is compressed is refused."""
        info = self.archive.getinfo(f"{self.root}/{name}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_BYTES:
            raise ValueError(f"{name}: compressed, or too large: not written by torch")
        return self.archive.read(info)

    def read_json(self, name: str) -> Any:
        """A part that is JSON."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{name}: not valid JSON: {e}") from e


def _read(parts: _Parts) -> Program:
    order = f"{parts.root}/byteorder"
    if order in parts.names and parts.read("byteorder") != b"little":
        raise ValueError("its tensors are big-endian: export it on another machine")
    whole = parts.read_json(f"models/{parts.model}.json")
    version = whole["schema_version"]["major"]
    if version != SCHEMA_MAJOR:
        raise ValueError(
            f"version {version} of torch's format, not {SCHEMA_MAJOR}: export it again "
            "with the torch that is installed here"
        )
    module = whole["graph_module"]
    graph, signature = module["graph"], module["signature"]
    weights = _tensors(parts, "weights")
    constants = _tensors(parts, "constants")
    tensors, pixels = dict[str, Tensor](), list[str]()
    for spec in signature["input_specs"]:
        ((kind, said),) = spec.items()
        if kind == "user_input":
            pixels.append(said["arg"]["as_tensor"]["name"])
        elif kind == "parameter":
            tensors[said["arg"]["name"]] = weights[said["parameter_name"]]
        elif kind == "buffer":
            held = weights if said["persistent"] else constants
            tensors[said["arg"]["name"]] = held[said["buffer_name"]]
        elif kind == "tensor_constant":
            tensors[said["arg"]["name"]] = constants[said["tensor_constant_name"]]
        else:
            raise ValueError(f"an input of the kind {kind}, which may hold code")
    _refuse_training(graph["nodes"])
    if len(pixels) != 1:
        raise ValueError(
            f"it takes {len(pixels)} inputs: a member takes one, the patch"
        )
    meta = graph["tensor_values"][pixels[0]]
    dtype = DTYPES[meta["dtype"]]
    if not dtype.is_floating_point:
        raise ValueError(
            f"its input is of type {dtype}: export it with a float32 or float16 input"
        )
    return Program(
        nodes=tuple(graph["nodes"]),
        tensors=tensors,
        pixels=pixels[0],
        dtype=dtype,
        sizes=_sizes(meta, whole["range_constraints"]),
        answer=_answer(signature["output_specs"]),
        torch_version=str(whole.get("torch_version", "")),
    )


def _refuse_training(nodes: list[Any]) -> None:
    """Refuse dropout and normalization that work as in training."""
    for node in nodes:
        said = {a["name"]: a["arg"].get("as_bool") for a in node["inputs"]}
        if said.get("training") or said.get("train"):
            raise ValueError(
                f"{node['target']} works as in training: call model.eval() before "
                "torch.export.export"
            )


def _answer(specs: list[Any]) -> str:
    """Name of the one output."""
    if any("user_output" not in spec for spec in specs):
        raise ValueError(
            "it changes its own weights or buffers: call model.eval() before "
            "torch.export.export"
        )
    if len(specs) != 1:
        raise ValueError(
            f"it has {len(specs)} outputs: export a model that returns one tensor"
        )
    return str(specs[0]["user_output"]["arg"]["as_tensor"]["name"])


def _sizes(
    meta: dict[str, Any], ranges: dict[str, Any]
) -> tuple[int | tuple[int, int | None], ...]:
    """Each size of the input, or what it may be."""
    sizes: list[int | tuple[int, int | None]] = []
    one_symbol = re.compile(r"Symbol\('(\w+)'[^()]*\)|(\w+)")
    for size in meta["sizes"]:
        if "as_int" in size:
            sizes.append(int(size["as_int"]))
            continue
        # Of an expression, 8*s0, the bounds of s0 do not say much: left to the trial.
        symbol = one_symbol.fullmatch(size["as_expr"]["expr_str"])
        said = ranges.get(symbol[1] or symbol[2], {}) if symbol else {}
        least, most = said.get("min_val"), said.get("max_val")
        sizes.append((int(least or 1), None if most is None else int(most)))
    return tuple(sizes)


def _tensors(parts: _Parts, kind: str) -> dict[str, Tensor]:
    """The weights or constants, by name; tensors that share memory share it again."""
    name = f"data/{kind}/{parts.model}_{kind}_config.json"
    if f"{parts.root}/{name}" not in parts.names:
        raise ValueError(
            f"its {kind} are a pickle, which may hold code: export it again by "
            "torch.export.save of torch 2.9 or later"
        )
    files: dict[str, Tensor] = {}
    found = {}
    for key, said in parts.read_json(name)["config"].items():
        meta, file = said["tensor_meta"], said["path_name"]
        if said["use_pickle"] or meta is None or "/" in file:
            raise ValueError(
                f"{key} is stored as a pickle, which may hold code: export a model of "
                "plain tensors, not of a subclass"
            )
        dtype = DTYPES[meta["dtype"]]
        if file not in files:
            data = bytearray(parts.read(f"data/{kind}/{file}"))
            files[file] = torch.frombuffer(data, dtype=dtype) if data else _empty(dtype)
        sizes, strides = (
            [int(v["as_int"]) for v in meta[k]] for k in ("sizes", "strides")
        )
        start = int(meta["storage_offset"]["as_int"])
        # torch refuses what would reach beyond the bytes.
        found[key] = files[file].as_strided(sizes, strides, start)
    return found


def _empty(dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype)
