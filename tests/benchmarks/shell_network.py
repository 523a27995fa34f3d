"""A network that nobody here made, lavlab-shell's (MIT), as a member, against itself.

    pip install --no-deps lavlab-shell macenko-pca monai; pip install onnx onnxruntime
    python -m tests.benchmarks.shell_network SLIDE OUT

Its ONNX file takes no RGB but eosin, hematoxylin and optical density, by stains that
the package estimates of each slide, each scaled from its least to its largest value in
the patch. OUT/shell.onnx is that network with these steps before it, for the stains of
SLIDE; beside it lie its data and its card. Printed is how far the heatmap is from what
the package's own inference says of the same pixels.
"""

import sys
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import compose
from torch import Tensor, nn

from digipath_ray.config.toml import from_tree
from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weight_files import weights_digest
from digipath_ray.pipeline.prepare import grid_of
from digipath_ray.pipeline.segment import segment_slide
from digipath_ray.slide.open import open_slide

MPP, PATCH_PX = 1.0, 512
CLASSES = ("lumen", "epithelium", "background")
EPITHELIUM = CLASSES.index("epithelium")
Stains = dict[str, Any]


class Preprocessing(nn.Module):
    """RGB from 0 to 255 as the package's network takes it, [B, 3, H, W]."""

    rows: Tensor
    low: Tensor
    span: Tensor

    def __init__(self, stains: Stains) -> None:
        super().__init__()
        inverse = np.linalg.pinv(stains["w_est"]).astype(np.float32)
        mean = np.full(3, 1 / 3, np.float32)
        rows = np.stack([inverse[stains["e_idx"]], inverse[stains["h_idx"]], mean])
        low, high = (
            np.array([stains[f"{name}_{end}"] for name in ("e", "h", "od")], np.float32)
            for end in ("lo", "hi")
        )
        self.white = float(stains["Io"])
        self.register_buffer("rows", torch.from_numpy(rows)[:, :, None, None])
        self.register_buffer("low", torch.from_numpy(low)[:, None, None])
        span = high - low + np.float32(1e-8)
        self.register_buffer("span", torch.from_numpy(span)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """The package's apply_eho_chunked, and MONAI's ScaleIntensity after it."""
        light = pixels.clamp(1.0, self.white) / self.white
        # ONNX has no logarithm to base 10.
        density = -torch.log(light) * (1 / np.log(10.0))
        amounts = nn.functional.conv2d(density, self.rows)
        stored = (((amounts - self.low) / self.span).clamp(0, 1) * 255).floor()
        low = stored.amin((2, 3), keepdim=True)
        high = stored.amax((2, 3), keepdim=True)
        return (stored - low) / (high - low).clamp_min(1e-8)


def estimate_stains(slide: Path) -> Stains:
    """The package's estimate of a slide's stains."""
    from shell.transforms import estimate_stain_params

    with open_slide(slide) as opened:
        grid = grid_of(opened, from_tree({"grid": {"mpp": MPP}}))
        size = grid.md_width, grid.md_height
        pixels = opened.read(grid.frame, 0, 0, *size, edge="white")
    found: Stains = estimate_stain_params(np.ascontiguousarray(pixels))
    return found


def write_member(stains: Stains, out: Path) -> Path:
    """The network with its preprocessing, and its card."""
    out.mkdir(parents=True, exist_ok=True)
    before = out / "before.onnx"
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no onnxscript
        torch.onnx.export(
            Preprocessing(stains),
            (torch.zeros(1, 3, 64, 64),),
            str(before),
            dynamo=False,
            opset_version=18,
            input_names=["rgb"],
            output_names=["eho"],
            dynamic_axes={"rgb": axes, "eho": axes},
        )
    network = onnx.load(str(files("shell") / "weights" / "model_v1.onnx"))
    first = compose.add_prefix(onnx.load(before), "before_")
    first.ir_version = network.ir_version
    before.unlink()
    whole = compose.merge_models(first, network, io_map=[("before_eho", "input")])
    path, data = out / "shell.onnx", out / "shell.data"
    data.unlink(missing_ok=True)  # onnx appends to it
    onnx.save_model(whole, path, save_as_external_data=True, location=data.name)
    write_card(
        path,
        ModelCard(
            name="shell",
            architecture="onnx",
            encoder=None,
            options={},
            mpp=MPP,
            patch_px=PATCH_PX,
            patch_multiple=8,
            input_scale="0..255",
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            classes=CLASSES,
            tumor_classes=("epithelium",),
            activation="sigmoid",
            training_slides=(),
            training_patients=(),
            license="MIT",
            digest=weights_digest(path),
        ),
    )
    return path


def compare(slide: Path, member: Path, stains: Stains) -> NDArray[np.float32]:
    """Ours and the package's posterior of epithelium, [2, pixels], patch by patch."""
    from shell.inference import _get_normalize
    from shell.model import build_model
    from shell.transforms import apply_eho_chunked

    grid_spec = {"patch_px": PATCH_PX, "stride_px": PATCH_PX, "downsample": 1}
    tree = {"grid": grid_spec, "tissue": {"tissue": "all"}}
    config = resolve(tree, weights=member)
    ours = segment_slide(slide, config, load_ensemble(config)).probability
    network, scale = build_model(device="cpu"), _get_normalize()
    pairs = []
    with open_slide(slide) as opened:
        grid = grid_of(opened, config)
        for row in range(0, grid.hm_height, PATCH_PX):
            for col in range(0, grid.hm_width, PATCH_PX):
                pixels = opened.read(
                    grid.frame, col, row, PATCH_PX, PATCH_PX, edge="white"
                )
                eho = apply_eho_chunked(np.ascontiguousarray(pixels), **stains)
                image = torch.from_numpy(eho).permute(2, 0, 1).float()
                given = scale({"image": image})["image"][None]
                with torch.inference_mode():
                    theirs = torch.sigmoid(network(given))[0, EPITHELIUM].numpy()
                mine = ours[row : row + PATCH_PX, col : col + PATCH_PX]
                theirs = theirs[: mine.shape[0], : mine.shape[1]]
                pairs.append(np.stack([mine.ravel(), theirs.ravel()]))
    return np.concatenate(pairs, axis=1)


def main(slide: Path, out: Path) -> None:
    """Write the member and print how far it is from the package."""
    stains = estimate_stains(slide)
    member = write_member(stains, out)
    mine, theirs = compare(slide, member, stains)
    most = np.abs(mine - theirs).max()
    same = ((mine > 0.5) == (theirs > 0.5)).mean()
    print(f"{mine.size:,} px, largest difference {most:.2g}, same class {same:.4%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
