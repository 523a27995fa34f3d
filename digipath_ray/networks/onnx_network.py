"""An ONNX model as a network, run by onnxruntime.

onnxruntime is an extra (``pip install 'digipath_ray[onnx]'``), imported only by a
process that holds such a member.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from digipath_ray.networks.onnx_file import read_header

log = logging.getLogger(__name__)

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""Types that an input may have, by onnxruntime's names."""
ANSWERS = (*FLOATS, "tensor(double)")
"""Types that an answer may have."""
NO_NUMBERS = (
    "its answer is of type {kind}, not of probabilities or logits: export it before "
    "classes are chosen (argmax, a threshold), with a float32 output"
)
GPU = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


class OnnxNetwork(nn.Module):
    """The model as a network: pixels in, what it answers out.

    Args:
        path: the .onnx file, its external data beside it.
        device: where it shall run; on the CPU, with a warning, where onnxruntime has no
            provider for a GPU.
        output: name of its answer, of a model that has several.

    Raises:
        ValueError: onnxruntime is missing or cannot load the model; or it has another
            number of inputs or outputs than one; or its answer is no tensor of floats.
    """

    def __init__(
        self, path: Path, device: torch.device, *, output: str | None = None
    ) -> None:
        super().__init__()
        self.session = _open(path, device)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs)
            raise ValueError(
                f"weights {path}: it takes {len(inputs)} inputs ({names}): a member "
                "takes one, the patch"
            )
        self.input = inputs[0]
        if self.input.type not in FLOATS:
            raise ValueError(
                f"weights {path}: its input is of type {self.input.type}: export it "
                "with a float32 or float16 input"
            )
        self.output = _output(path, self.session, output)
        if 0 in self.input.shape:
            raise ValueError(
                f"weights {path}: its input is {self.input.shape}, and onnxruntime "
                "takes a size of 0 as it stands: name those that may be any "
                "(onnx.tools.update_model_dims), or export it again"
            )
        self.sizes = tuple(
            size if isinstance(size, int) else (1, None) for size in self.input.shape
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """What the model says of normalized pixels, on their device, float32."""
        given = pixels.cpu().numpy().astype(FLOATS[self.input.type], copy=False)
        try:
            answer = self.session.run(
                [self.output], {self.input.name: np.ascontiguousarray(given)}
            )[0]
        except Exception as e:  # onnxruntime's own have no common type of their own
            if "allocate memory" in str(e) or "out of memory" in str(e).lower():
                raise torch.OutOfMemoryError(str(e)) from e
            raise ValueError(
                f"onnxruntime cannot run it on pixels {list(given.shape)}: {e}"
            ) from e
        found = torch.from_numpy(np.asarray(answer, np.float32))
        return found.to(pixels.device)


def _open(path: Path, device: torch.device) -> Any:
    """Onnxruntime's session of a model."""
    try:
        import onnxruntime
    except ImportError as e:
        raise ValueError(
            f"weights {path}: ONNX needs onnxruntime: pip install 'digipath_ray[onnx]' "
            "(on GPUs: pip install onnxruntime-gpu)"
        ) from e
    for name in read_header(path).external:
        if not (path.parent / name).is_file():
            raise ValueError(
                f"weights {path}: its external data {name} are missing: copy them "
                "beside it, as the model was saved"
            )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that wait at full speed take the cores from those that read slides.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised
    providers: list[Any] = [CPU]
    if device.type == "cuda" and GPU in onnxruntime.get_available_providers():
        providers = [(GPU, {"device_id": device.index or 0}), CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as e:
        opsets = ", ".join(
            f"{domain or 'ai.onnx'} {version}"
            for domain, version in sorted(read_header(path).opsets.items())
        )
        raise ValueError(
            f"weights {path}: onnxruntime {onnxruntime.__version__} cannot load it "
            f"(opset {opsets}): {e}"
        ) from e
    # Where CUDA's libraries do not load, onnxruntime takes the CPU without an error.
    if device.type == "cuda" and GPU not in session.get_providers():
        log.warning(
            "%s runs on the CPU: this onnxruntime has no CUDA (pip uninstall "
            "onnxruntime, pip install onnxruntime-gpu), or does not find the libraries "
            "of the CUDA that it was built for",
            path.name,
        )
    return session


def _output(path: Path, session: Any, wanted: str | None) -> str:
    """Name of the output that is the answer."""
    kinds = {str(o.name): str(o.type) for o in session.get_outputs()}
    names = list(kinds)
    if wanted is None and len(names) == 1:
        (wanted,) = names
    if wanted in names:
        if kinds[wanted] not in ANSWERS:
            raise ValueError(f"weights {path}: {NO_NUMBERS.format(kind=kinds[wanted])}")
        return wanted
    raise ValueError(
        f"weights {path}: its outputs are {', '.join(names)}: say in the card which "
        'is the answer, "options": {"output": "NAME"}'
    )
