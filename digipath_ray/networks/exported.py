"""Runs a program of ``torch.export`` by torch's own operators, one after the other.

No Python is written or evaluated: each node of the graph names an operator of ATen,
which is looked up, and its arguments. Operators that touch files, and all that is no
operator, are refused when the program is read.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from digipath_ray.networks.exported_file import (
    DTYPES,
    MEMORY_FORMATS,
    STRIDED,
    Program,
)

PREFIX = "torch.ops.aten."
FILES = ("from_file", "save")
"""Operators of ATen that read or write files."""

# Of ATen's internal operators some trust their arguments, here a file's.
INTERNAL = {
    "_adaptive_avg_pool2d",
    "_assert_async",
    "_assert_scalar",
    "_assert_tensor_metadata",
    "_convolution",
    "_functional_assert_scalar",
    "_log_softmax",
    "_native_batch_norm_legit_no_training",
    "_reshape_alias",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_softmax",
    "_to_copy",
    "_unsafe_index",
    "_unsafe_view",
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
}
"""Those that exported networks call."""

# Numbers that follow from sizes; of Python, not of tensors.
PYTHON = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt",
          "le", "gt", "ge", "and_", "or_", "not_")  # fmt: skip
SCALARS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in PYTHON},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
}

Values = dict[str, Any]
"""Name in the graph -> a tensor, or a number that follows from sizes."""


class ExportedNetwork(nn.Module):
    """The program as a network: pixels in, what it answers out.

    Args:
        program: of :func:`digipath_ray.networks.exported_file.read_program`.

    Raises:
        ValueError: it calls what is no operator of ATen, or one of a newer torch.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.names = tuple(program.tensors)
        for number, tensor in enumerate(program.tensors.values()):
            # Of a graph's names some are no names of attributes.
            self.register_buffer(f"tensor_{number}", tensor)
        self.calls = [_callable(str(node["target"])) for node in program.nodes]
        self.over = _last_uses(program)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """What the program says of normalized pixels; floats are float32."""
        values: Values = dict(zip(self.names, self.buffers(), strict=True))
        values[self.program.pixels] = pixels.to(self.program.dtype)
        for number, node in enumerate(self.program.nodes):
            call = self.calls[number]
            said = [(a["name"], _value(a["arg"], values, pixels.device)) for a in
                    node["inputs"]]  # fmt: skip
            if isinstance(call, torch._ops.OpOverload):
                result = call(*_ordered(call, dict(said)), **_by_name(call, dict(said)))
            else:
                result = call(*(value for _, value in said))
            _bind(values, node["outputs"], result)
            for name in self.over[number]:
                values.pop(name, None)
        answer = values[self.program.answer]
        if not isinstance(answer, Tensor):
            raise ValueError("the program answers with a number, not with a tensor")
        return answer.float() if answer.is_floating_point() else answer


def _callable(target: str) -> Callable[..., Any]:
    """The operator of a node."""
    if target in SCALARS:
        return SCALARS[target]
    name, _, overload = target.removeprefix(PREFIX).partition(".")
    plain = target.startswith(PREFIX) and name.isidentifier() and name not in FILES
    internal = name.startswith("_") and name not in INTERNAL
    if not plain or internal or not overload.isidentifier():
        raise ValueError(
            f"the program calls {target}, which is no operator of torch (ATen) and "
            "could be any code: export the model without it, or as ONNX"
        )
    try:
        found = getattr(getattr(torch.ops.aten, name), overload)
    except AttributeError as e:
        raise ValueError(
            f"the program calls {target}, which torch {torch.__version__} does not "
            "know: export it with this version"
        ) from e
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"the program calls {target}, which is no operator")
    return found


def _ordered(call: torch._ops.OpOverload, given: Values) -> list[Any]:
    """Arguments by position, with the operator's defaults of those not given."""
    return [
        given.get(a.name, a.default_value)
        for a in call._schema.arguments
        if not a.kwarg_only
    ]


def _by_name(call: torch._ops.OpOverload, given: Values) -> Values:
    """Arguments that an operator takes by name alone."""
    wanted = [a.name for a in call._schema.arguments if a.kwarg_only]
    return {name: given[name] for name in wanted if name in given}


def _value(arg: dict[str, Any], values: Values, device: torch.device) -> Any:
    """An argument: one key says of what kind, its value which."""
    ((kind, said),) = arg.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_ints" | "as_bool" | "as_bools":
            return said
        case "as_float":  # what JSON cannot say is a text: "-Infinity"
            return float(said)
        case "as_floats":
            return [float(one) for one in said]
        case "as_string" | "as_strings":
            return said
        case "as_tensor":
            return values[said["name"]]
        case "as_tensors":
            return [values[one["name"]] for one in said]
        case "as_optional_tensor":
            return _value(said, values, device)
        case "as_optional_tensors":
            return [_value(one, values, device) for one in said]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _number(said, values)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_number(one, values) for one in said]
        case "as_scalar_type":
            return DTYPES[said]
        case "as_memory_format":
            return MEMORY_FORMATS[said]
        case "as_layout":
            if said == STRIDED:
                return torch.strided
            raise ValueError("the program makes sparse tensors, which are not known")
        case "as_device":
            return device
    raise ValueError(f"an argument of the kind {kind}, which is not known here")


def _number(said: dict[str, Any], values: Values) -> Any:
    ((kind, value),) = said.items()
    if kind == "as_name":
        return values[value]
    return float(value) if kind == "as_float" else value


def _bind(values: Values, outputs: Sequence[dict[str, Any]], result: Any) -> None:
    """Keep what a node gave under the names of its outputs."""
    if not outputs:  # an assertion
        return
    if len(outputs) != 1:
        for output, one in zip(outputs, result, strict=True):
            _bind(values, [output], one)
        return
    ((kind, said),) = outputs[0].items()
    if kind == "as_tensors":
        names = [one["name"] for one in said]
        values.update(zip(names, result, strict=True))
    elif kind == "as_tensor":
        values[said["name"]] = result
    elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        values[said["as_name"]] = result
    elif kind != "as_none":
        raise ValueError(f"an output of the kind {kind}, which is not known here")


def _last_uses(program: Program) -> list[list[str]]:
    """Names that no later node asks for, after each: their memory is given back."""
    last: dict[str, int] = {}
    for number, node in enumerate(program.nodes):
        for arg in [a["arg"] for a in node["inputs"]] + node["outputs"]:
            for name in _names_in(arg):
                last[name] = number
    over: list[list[str]] = [[] for _ in program.nodes]
    for name, number in last.items():
        if name != program.answer:
            over[number].append(name)
    return over


def _names_in(arg: Any) -> list[str]:
    """Names of values that an argument refers to, however nested."""
    if isinstance(arg, list):
        return [name for one in arg for name in _names_in(one)]
    if not isinstance(arg, dict):
        return []
    own = [v for k, v in arg.items() if k in ("name", "as_name") and isinstance(v, str)]
    return own + [name for one in arg.values() for name in _names_in(one)]
