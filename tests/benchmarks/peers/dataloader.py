"""A loop over a PyTorch DataLoader, as a user would write it who has no framework.

Run by :mod:`tests.benchmarks.peer`: OpenSlide reads each patch in the workers, the
network runs here, probabilities are averaged down and added up where patches overlap.
"""

import json
import time
from pathlib import Path

import numpy as np
import openslide
import torch
from network import Posterior, read_task
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader, Dataset


class Patches(Dataset):
    """The patches of a slide, whose corners are in level-0 px."""

    def __init__(self, task: dict) -> None:
        self.task = task
        self.slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.task["corners"])

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        if self.slide is None:  # each worker opens its own
            self.slide = openslide.OpenSlide(self.task["slide"])
        side = self.task["patch_px"]
        region = self.slide.read_region(tuple(self.task["corners"][i]), 0, (side, side))
        return np.asarray(region.convert("RGB")).transpose(2, 0, 1).copy(), i


def main() -> None:
    task = read_task()
    network = Posterior(task).eval().to(task["device"])
    loader = DataLoader(
        Patches(task), batch_size=task["batch_size"], num_workers=task["workers"]
    )
    d = task["downsample"]
    height, width = (n // d + task["patch_px"] // d for n in task["size"])
    total, weight = np.zeros((2, height, width), np.float32)
    side = task["patch_px"] // d
    started = time.perf_counter()
    with torch.inference_mode():
        for patches, numbers in loader:
            tumor = network(patches.to(task["device"]))[:, 1:]
            small = avg_pool2d(tumor, d)[:, 0].cpu().numpy()
            for i, values in zip(numbers.tolist(), small, strict=True):
                x, y = (n // d for n in task["corners"][i])
                total[y : y + side, x : x + side] += values
                weight[y : y + side, x : x + side] += 1
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    seconds = time.perf_counter() - started
    np.save(Path(task["out"]) / "dataloader.npy", mean)
    answer = {"seconds": seconds, "patches": len(task["corners"])}
    (Path(task["out"]) / "dataloader.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
