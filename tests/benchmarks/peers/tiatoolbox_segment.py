"""TIAToolbox's semantic segmentor over one slide, as its documentation has it.

Run by :mod:`tests.benchmarks.peer` in an environment with tiatoolbox 2.1.3. Writes the
tumor probability at heatmap scale as .npy, and the seconds as JSON.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
import zarr
from network import Posterior, read_task
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC


class Network(ModelABC):
    """The network in the form that TIAToolbox takes."""

    def __init__(self, task: dict) -> None:
        super().__init__()
        self.posterior = Posterior(task)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.posterior(patches)

    @staticmethod
    def infer_batch(
        model: torch.nn.Module, batch_data: torch.Tensor, *, device: str
    ) -> np.ndarray:
        patches = batch_data.to(device).permute(0, 3, 1, 2)
        model.eval()
        with torch.inference_mode():
            return model(patches).permute(0, 2, 3, 1).cpu().numpy()


def main() -> None:
    task = read_task()
    at = [{"units": "baseline", "resolution": 1.0}]
    patch, stride = [task["patch_px"]] * 2, [task["stride_px"]] * 2
    segmentor = SemanticSegmentor(
        model=Network(task),
        batch_size=task["batch_size"],
        num_workers=task["workers"],
        device=task["device"],
        verbose=False,
    )
    started = time.perf_counter()
    found = segmentor.run(
        [Path(task["slide"])],
        masks=[Path(task["mask"])] if task["mask"] else None,
        patch_mode=False,
        ioconfig=IOSegmentorConfig(
            input_resolutions=at,
            output_resolutions=at,
            save_resolution=at[0],
            patch_input_shape=patch,
            patch_output_shape=patch,
            stride_shape=stride,
        ),
        save_dir=Path(task["out"]) / "tiatoolbox",
        overwrite=True,
        output_type="zarr",
        return_probabilities=True,
        auto_get_mask=False,
    )
    seconds = time.perf_counter() - started
    (path,) = found.values() if isinstance(found, dict) else found
    group = zarr.open(str(path), mode="r")
    tumor = np.asarray(group["probabilities"])[..., 1]
    d = task["downsample"]
    rows, cols = (n // d for n in tumor.shape)
    small = tumor[: rows * d, : cols * d].reshape(rows, d, cols, d).mean((1, 3))
    np.save(Path(task["out"]) / "tiatoolbox.npy", small.astype(np.float32))
    answer = {"seconds": seconds, "patches": None}
    (Path(task["out"]) / "tiatoolbox.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
