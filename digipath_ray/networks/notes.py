"""Warnings for readers of a heatmap: untrained or demo networks, research use."""

import functools
from importlib import resources
from pathlib import Path

from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.networks.card import read_card
from digipath_ray.networks.references import has_published_reference
from digipath_ray.words import name_some


@functools.cache
def demo_digests() -> frozenset[str]:
    """Digests of the weights that come with the package."""
    folder = Path(str(resources.files("digipath_ray") / "demo" / "weights"))
    return frozenset(read_card(path).digest for path in folder.glob("*.safetensors"))


def is_demo(member: MemberSpec) -> bool:
    """Whether a member's weights are the demo's, wherever they were copied to."""
    return member.digest in demo_digests()


def member_notes(config: RunConfig) -> list[str]:
    """Why what the members of a resolved config say is no prediction; mostly empty."""
    notes = []
    if any(m.weights in ("random", "imagenet") for m in config.members):
        notes.append("untrained members: not a prediction")
    if any(is_demo(m) for m in config.members):
        notes.append("demo networks, fitted on synthetic slides: not for real slides")
    return notes


def stain_notes(config: RunConfig) -> list[str]:
    """What to know of the stains that a resolved config brings slides to."""
    if config.slide.stain == "none":
        return []
    names = [m.name for m in config.members if has_published_reference(m)]
    if not names:
        return []
    return [
        "stains are brought to Macenko's published hematoxylin and eosin, as no card "
        f"states those of the training slides: {name_some(names)}"
    ]


def overlay_notes(config: RunConfig) -> list[str]:
    """What a reader of an overlay must know."""
    return [*member_notes(config), "for research use only"]
