"""The recipe of a fit: settings given, the weights it starts from, and defaults."""

from dataclasses import replace
from pathlib import Path

from digipath_ray.config.member import WEIGHTS_SUFFIXES
from digipath_ray.config.recipe import Recipe, check_can_be_frozen
from digipath_ray.config.run import MemberSpec
from digipath_ray.config.toml import (
    Tree,
    check_tree,
    recipe_from_tree,
)
from digipath_ray.networks.build import build_network, paper_rows
from digipath_ray.networks.card import (
    card_path,
    read_card,
)
from digipath_ray.networks.check import (
    check_fit_patch,
    check_maps,
)
from digipath_ray.networks.normalization import normalized, with_encoders_colors
from digipath_ray.networks.weight_files import (
    encoder_file,
    weights_file,
)
from digipath_ray.storage.files import file_digest, is_url, place

_OF_A_START = ("encoder_weights", "encoder_key", "encoder_by_order", "digest")


def resolve_recipe(tree: Tree, *, init: str | Path | None = None) -> Recipe:
    """The final recipe of a fit, in which every member has its starting weights.

    Args:
        tree: settings of preset, file and command line; the paper's members if none.
        init: "random" or "imagenet" for all members, a .safetensors file, or a
            directory of weights named as the members, on a disk or in a bucket.

    Returns:
        A recipe whose members have weights, mean, std and seeds of their own, and the
        digest of the file that they start from.

    Raises:
        ValueError: starting weights are missing, a network cannot be built or moves
            what it finds, or a path is in a bucket that can only be read from a disk.
        OSError: a bucket does not answer.
    """
    check_tree(tree)
    rows = [dict(row) for row in tree.get("members", paper_rows())]
    seed = tree.get("fit", {}).get("seed", 0)
    for number, row in enumerate(rows):
        if init is not None:
            row["weights"] = _start_of(str(init), str(row.get("name")))
            for key in _OF_A_START:
                row.pop(key, None)
        elif row.get("encoder_weights") is None:
            row.setdefault("weights", "imagenet")
        row.setdefault("seed", seed + number)
    recipe = recipe_from_tree({**tree, "members": rows})
    for spec in recipe.members:
        if recipe.fit.freeze_encoder:
            random = spec.weights == "random" and spec.encoder_weights is None
            check_can_be_frozen(spec, pretrained=not random)
        if spec.encoder is not None:  # before an hour of sampling, not after it
            bare = build_network(replace(spec, weights="random")).to("meta").eval()
            check_fit_patch(bare, spec, recipe)
            check_maps(bare, spec, patch_px=recipe.grid.patch_px)
    members = tuple(
        _with_digest(_carded_or_normalized(spec)) for spec in recipe.members
    )
    extra = recipe.sampling.extra_annotations
    if extra is not None and is_url(extra):
        raise ValueError(
            f"extra annotations {extra}: corrections are read from a disk, not from a "
            "bucket: copy the folder to a disk that all nodes see, and name it"
        )
    sampling = replace(
        recipe.sampling,
        hard_examples=_absolute(recipe.sampling.hard_examples),
        extra_annotations=_absolute(extra),
    )
    return replace(recipe, members=members, sampling=sampling)


def _absolute(path: str | None) -> str | None:
    """A path as a process in another folder finds it."""
    return None if path is None else str(place(path))


def _start_of(init: str, name: str) -> str:
    """The starting weights that ``--init`` gives a member."""
    if init in ("random", "imagenet") or init.endswith(WEIGHTS_SUFFIXES):
        return init
    path = place(init)
    if not path.is_dir():
        return init
    found = path / f"{name}.safetensors"
    if not found.exists():
        raise ValueError(f"--init {init}: holds no {found.name} for member {name}")
    return str(found)


def _carded_or_normalized(spec: MemberSpec) -> MemberSpec:
    """The member with mean and std: given, else from its card, else the default."""
    path = weights_file(spec.weights) if spec.encoder_weights is None else None
    if path is not None and card_path(path).is_file():
        card = read_card(path)
        mean, std = spec.mean or card.mean, spec.std or card.std
        return replace(spec, mean=mean, std=std)
    if spec.encoder_weights is None:
        return normalized(spec)
    return with_encoders_colors(spec)


def _with_digest(spec: MemberSpec) -> MemberSpec:
    """The member with the digest of the file that its fit starts from, if it is there.

    Raises:
        ValueError: the file is not the one of the digest given.
    """
    if spec.encoder_weights is not None:
        try:
            path: Path | None = encoder_file(spec.encoder_weights)
        except ValueError:  # of a package that the workers may have
            path = None
    else:
        path = weights_file(spec.weights)
    if path is None or not path.is_file():
        return spec
    digest = file_digest(path)
    if spec.digest not in (None, digest):
        raise ValueError(
            f"weights {path}: SHA-256 is {digest[:12]}..., but {spec.digest[:12]}... "
            f"in the config of member {spec.name}: the file was changed"
        )
    return replace(spec, digest=digest)
