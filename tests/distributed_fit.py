"""A step of a fit in one of several processes of torch.distributed."""

import sys
from pathlib import Path

import numpy as np
import torch

from digipath_ray.config.run import MemberSpec
from digipath_ray.config.toml import merge, recipe_from_tree
from digipath_ray.networks.weights import save_weights
from digipath_ray.training.fit import MemberFit
from tests.annotated import FIT, batch_of


def fit_part(rank: int, workers: int, folder: Path) -> None:
    """Fit two steps with a frozen encoder, and write what the network is then."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meet'}",
        rank=rank,
        world_size=workers,
    )
    spec = MemberSpec(
        name="m",
        architecture="tests.tiny:Tiny",
        weights=str(folder / "start.safetensors"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    fit_section = {"freeze_encoder": True, "workers": workers}
    recipe = recipe_from_tree(merge(FIT, {"fit": fit_section}))
    fit = MemberFit(spec, recipe, torch.device("cpu"))
    tumor = np.zeros((2, 32, 32), bool)
    tumor[0, 8:24, 8:24] = True
    noise = np.random.default_rng(rank).normal(0, 10, (2, 32, 32, 3))
    pixels = (np.where(tumor[..., None], 90, 200) + noise).clip(0, 255).astype(np.uint8)
    fit.fit_epoch([batch_of(tumor, pixels=pixels)] * 2)
    save_weights(fit.network.state_dict(), folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    fit_part(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
