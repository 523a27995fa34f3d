"""Members with weights and cards on a disk, of networks that build in no time."""

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


LIGHT = MemberSpec(
    name="light",
    architecture="Unet",
    encoder="tu-tf_efficientnet_lite0",
    weights="random",
)


def card_of(spec, **changes):
    """A card for the weights of a spec; digest to be filled in."""
    card = ModelCard(
        name=spec.name,
        architecture=spec.architecture,
        encoder=spec.encoder,
        options=spec.options,
        mpp=0.5,
        patch_px=256,
        mean=(0.7, 0.6, 0.7),
        std=(0.2, 0.2, 0.2),
        training_slides=("tumor_001",),
        training_patients=("patient_001",),
        license="Apache-2.0",
        digest="0" * 64,
    )
    return replace(card, **changes)


def write_member(folder, spec, *, change=lambda tensors: None, **card):
    """Weights of a spec, drawn from its seed, with their card; returns the file."""
    path = folder / f"{spec.name}.safetensors"
    tensors = build_network(spec).state_dict()
    change(tensors)
    save_weights(tensors, path)
    write_card(path, card_of(spec, **{"digest": file_digest(path), **card}))
    return path
