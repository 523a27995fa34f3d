"""Members with weights and cards on a disk, of the network that builds in no time."""

from dataclasses import replace
from pathlib import Path

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.networks.weights import save_weights
from digipath_ray.storage.files import file_digest

TINY = MemberSpec(name="tiny", architecture="tests.tiny:Tiny", weights="random")


def write_tiny(folder: Path, *, seed: int = 0) -> Path:
    """Weights drawn from a seed, with their card; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TINY.name}.safetensors"
    save_weights(build_network(replace(TINY, seed=seed)).state_dict(), path)
    card = ModelCard(
        name=TINY.name,
        architecture=TINY.architecture,
        encoder=None,
        options={},
        mpp=1.0,
        patch_px=64,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        training_slides=(),
        training_patients=(),
        license="CC0-1.0",
        digest=file_digest(path),
    )
    write_card(path, card)
    return path
