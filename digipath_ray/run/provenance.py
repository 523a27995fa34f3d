"""What predicted a slide: this package, its libraries, the settings and the device.

It is in the slide's ``done`` record and in its heatmap's OME-XML; the digests of the
networks' weights and the precision are in the record beside it.
"""

import functools
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import digipath_ray
from digipath_ray.config.difference import defaults_of
from digipath_ray.config.run import EnsembleSpec, MemberSpec, RunConfig, RunSlideSpec
from digipath_ray.config.toml import to_tree
from digipath_ray.storage.files import json_digest

LIBRARIES = (
    "torch",
    "segmentation-models-pytorch",
    "timm",
    "numpy",
    "scikit-image",
    "openslide-python",
    "openslide-bin",
    "simplejpeg",
    "pillow",
    "tifffile",
    "ray",
)
"""Those that numbers or pixels come from, and Ray."""
LATER = {
    "slide": (RunSlideSpec, ("stain",)),
    "ensemble": (EnsembleSpec, ("keep_classes",)),
    "members": (
        MemberSpec,
        (
            *("classes", "tumor_classes", "whole_classes", "output", "activation"),
            *("output_stride", "border_px", "channel_order", "layout"),
            "encoder_by_order",
        ),
    ),
}
"""Section -> its fields that the first versions with digests did not know.

At its default a field is left out of the digest: it is that of those versions then. A
new field of a section or a member whose default is not None belongs here.
"""
COMMIT = "commit.txt"
"""The file in which a build notes what it was built from."""


def provenance(config: RunConfig, devices: Iterable[str]) -> dict[str, Any]:
    """What a slide is made with, as JSON can hold it.

    Args:
        config: of the run, with its precision decided.
        devices: names of those that the networks ran on.
    """
    return {
        "version": digipath_ray.__version__,
        "commit": commit(),
        "settings": settings_digest(config),
        "chunk_cells": config.compute.chunk_cells,
        "precision": config.compute.precision,
        "device": sorted(set(devices)),
        "libraries": libraries(),
    }


def settings_digest(config: RunConfig) -> str:
    """SHA-256 of the settings that a heatmap depends on, its members among them."""
    tree = to_tree(config)
    idle = () if config.artifacts.find else ("artifacts",)
    apart = ("compute", "outcome", *idle)
    kept = {name: tree[name] for name in tree if name not in apart}
    for section, (spec, later) in LATER.items():
        default = defaults_of(spec)
        for body in kept[section] if section == "members" else [kept[section]]:
            for name in later:
                if body.get(name) == default[name]:
                    del body[name]
    return json_digest(kept)


@functools.cache
def libraries() -> dict[str, str]:
    """Name -> version of each of LIBRARIES that is installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit that this package is of, "-dirty" if changed; None if not known."""
    folder = Path(digipath_ray.__file__).parent
    noted = folder / COMMIT
    if noted.is_file():
        return noted.read_text("utf-8").strip()
    if not (folder.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def flat(made_with: dict[str, Any]) -> dict[str, str]:
    """The same as pairs of texts, for formats that hold no more."""
    pairs: dict[str, str] = {}
    for name, value in made_with.items():
        if isinstance(value, dict):
            pairs |= {f"{name}.{key}": str(v) for key, v in value.items()}
        elif value is not None:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            pairs[name] = text
    return pairs
