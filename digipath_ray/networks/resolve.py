"""The ensemble of a run: settings given, model cards, and defaults for the rest.

:func:`resolve` makes the final config and checks all of it before the run starts.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from digipath_ray.config.member import WEIGHTS_SUFFIXES
from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.config.toml import (
    Tree,
    check_tree,
    from_tree,
    parse_toml,
    with_paths,
)
from digipath_ray.context import check_context
from digipath_ray.networks.build import paper_rows
from digipath_ray.networks.card import (
    ModelCard,
    mean_threshold,
    read_card,
    stated_by,
)
from digipath_ray.networks.check import (
    check_member,
    count_operations,
)
from digipath_ray.networks.normalization import normalized
from digipath_ray.networks.references import slide_section, with_references
from digipath_ray.networks.weight_files import (
    found_weights,
    weights_digest,
    weights_file,
)
from digipath_ray.networks.weights import (
    no_weights,
)
from digipath_ray.storage.files import is_url, place, read_text

log = logging.getLogger(__name__)

RECIPE = "recipe.toml"
"""In a fit's folder: the members that it has when it is finished."""
MPP_AGREEMENT = 0.01
"""Relative difference of mpp within which two statements of it agree."""


def resolve(
    tree: Tree,
    *,
    weights: str | Path | None = None,
    force: bool = False,
    allow_partial: bool = False,
) -> RunConfig:
    """The final config: cards read, defaults filled in, everything checked.

    Args:
        tree: settings of preset, file and command line; the paper's members if none.
        weights: "random" or "imagenet" for all members, or a file of weights or a
            directory of them (.safetensors, .onnx, .pt2), whose cards then name the
            members.
        force: prefer the tree where a card contradicts it (mpp by more than 1 %, mean,
            std).
        allow_partial: accept the folder of a fit of which a member is not finished.

    Returns:
        A config whose members have mean, std, and for files path and digest; those of
        a cascade are in the order of their cost, the cheapest first. An mpp,
        patch_px or threshold that the tree does not set comes from the cards; the
        default stride is half the patch (the paper's 50 % overlap).

    Raises:
        ValueError: a member has no weights; its weights, card and network do not match
            or a weight is NaN; members were trained at different mpp; or a member of a
            fit is missing.
    """
    check_tree(tree)
    rows = _member_rows(tree, weights, allow_partial=allow_partial)
    weightless = [str(row.get("name")) for row in rows if row.get("weights") is None]
    if weightless:
        raise ValueError(no_weights(weightless))
    carded = [_with_card(row, force=force) for row in rows]
    cards = [card for _, card in carded if card is not None]
    config = from_tree(
        {
            **tree,
            "slide": slide_section(tree.get("slide", {}), cards, force=force),
            "grid": _grid_section(tree.get("grid", {}), cards, force=force),
            "outcome": _outcome_section(tree.get("outcome", {}), cards),
            "members": [row for row, _ in carded],
        }
    )
    for factor in config.contexts:
        check_context(config.grid, factor)
    by_name = {str(row["name"]): card for row, card in carded if card is not None}
    _check_multiples(by_name, config.grid.patch_px)
    for spec in config.members:
        grid = config.grid
        check_member(spec, patch_px=grid.patch_px, step=2 * grid.downsample)
    config = with_references(config, by_name)
    members = tuple(normalized(m) for m in config.members)
    if config.ensemble.cascade:
        if len(members) < 2:
            raise ValueError(
                "ensemble.cascade: with one member there is none to leave out: leave "
                "out --cascade, or name several members"
            )
        members = _cheapest_first(members, config.grid.patch_px)
    return with_paths(replace(config, members=members))


def _cheapest_first(
    members: tuple[MemberSpec, ...], patch_px: int
) -> tuple[MemberSpec, ...]:
    """Members in order of their cost; as they are named where an ONNX file is one."""
    if any(m.architecture == "onnx" for m in members):
        log.warning(
            "what an ONNX file costs cannot be counted: the members of the cascade run "
            "in the order in which they are named: %s",
            ", ".join(m.name for m in members),
        )
        return members
    cost = {m.name: count_operations(m, patch_px=patch_px) for m in members}
    return tuple(sorted(members, key=lambda m: (cost[m.name], m.name)))


def _check_multiples(cards: Mapping[str, ModelCard], patch_px: int) -> None:
    """Refuse patches whose side is no multiple of what a card asks for."""
    for name, card in cards.items():
        step = card.patch_multiple
        if patch_px % step:
            below, above = patch_px // step * step, -(-patch_px // step) * step
            near = f"{above}" if below == 0 else f"{below} or {above}"
            raise ValueError(
                f"grid.patch_px = {patch_px}: member {name} takes multiples of {step} "
                f"px: --patch-px {near}"
            )


def _member_rows(
    tree: Tree, weights: str | Path | None, *, allow_partial: bool
) -> list[dict[str, Any]]:
    rows = [dict(row) for row in tree.get("members", paper_rows())]
    if weights is None:
        return rows
    if str(weights) in ("random", "imagenet"):
        return [{**row, "weights": str(weights)} for row in rows]
    found = found_weights(str(weights))
    if not allow_partial:
        _refuse_half_a_fit(str(weights), found)
    return [{"weights": path} for path in found]


def _refuse_half_a_fit(folder: str, found: list[str]) -> None:
    """Refuse a fit's folder that lacks the weights of a member of its recipe."""
    recipe = place(folder) / RECIPE
    if folder.endswith(WEIGHTS_SUFFIXES) or not recipe.exists():
        return
    names = [m["name"] for m in parse_toml(read_text(recipe)).get("members", [])]
    there = {Path(path).stem for path in found}
    if missing := [name for name in names if name not in there]:
        raise ValueError(
            f"weights {folder}: the fit's recipe names {len(names)} members, and "
            f"{', '.join(missing)} is not fitted: run 'digipath train' again to end "
            "it, or --allow-partial"
        )


def _with_card(
    row: dict[str, Any], *, force: bool
) -> tuple[dict[str, Any], ModelCard | None]:
    """A member's row completed from the card of its weights, and the card."""
    path = weights_file(str(row["weights"])) if "weights" in row else None
    if path is None:
        return row, None
    if not path.is_file():
        raise ValueError(f"weights {path}: file not found")
    card, digest = read_card(path), weights_digest(path)
    if not card.digest == row.get("digest", digest) == digest:
        raise ValueError(
            f"weights {path}: SHA-256 is {digest[:12]}..., but {card.digest[:12]}... "
            f"in its card and {str(row.get('digest', 'nothing'))[:12]} in the config: "
            "the file was changed, or its card belongs to another"
        )
    stated = stated_by(card)
    for key, value in stated.items():
        if key not in ("temperature", "whole_classes"):
            _check_stated(row, key, value, path, force=force)
    stated = {key: value for key, value in stated.items() if value is not None}
    # Absolute: the workers of a cluster start in directories of their own. A URI stays
    # one: every node fetches its copy.
    uri = str(row["weights"])
    where = uri if is_url(uri) else str(path.resolve())
    place = {"weights": where, "digest": digest}
    return {"name": card.name, **stated, **row, **place}, card


def _check_stated(
    row: Mapping[str, Any], key: str, stated: Any, path: Path, *, force: bool
) -> None:
    """Refuse a config whose ``key`` differs from the card of its weights."""
    configured = row.get(key, stated)
    configured = tuple(configured) if isinstance(configured, list) else configured
    if configured == stated:
        return
    message = (
        f"weights {path}: their card says {key} = {stated!r}, the config {configured!r}"
    )
    if key in ("architecture", "encoder", "context_mpp_factor", "options"):
        raise ValueError(f"{message}: these are weights of another architecture")
    if key not in ("mean", "std"):
        raise ValueError(f"{message}: mend the one that is wrong")
    if not force:
        raise ValueError(f"{message}; --force takes the config's")


def _grid_section(
    configured: Mapping[str, Any], cards: list[ModelCard], *, force: bool
) -> dict[str, Any]:
    """The tree's [grid], completed from the cards."""
    grid = dict(configured)
    if cards:
        _check_cards_agree(cards)
        mpp = grid.setdefault("mpp", cards[0].mpp)
        known = isinstance(mpp, (int, float))  # else from_tree refuses the type
        if known and not force and not _agree(mpp, cards[0].mpp):
            raise ValueError(
                f"grid.mpp = {mpp:g}, but the members were trained at "
                f"{cards[0].mpp:g} um/px: leave mpp out, or --force"
            )
        if "patch_px" not in grid:
            grid["patch_px"] = _common_patch(cards)
    if isinstance(grid.get("patch_px"), int):
        grid.setdefault("stride_px", grid["patch_px"] // 2)
    return grid


def _outcome_section(
    configured: Mapping[str, Any], cards: list[ModelCard]
) -> dict[str, Any]:
    """The tree's [outcome]; a threshold not given is the mean of the cards'."""
    outcome = dict(configured)
    chosen = mean_threshold(cards)
    if chosen is not None:
        outcome.setdefault("threshold", chosen)
    return outcome


def _agree(mpp: float, other: float) -> bool:
    return abs(mpp / other - 1) <= MPP_AGREEMENT


def _check_cards_agree(cards: list[ModelCard]) -> None:
    for card in cards[1:]:
        if not _agree(card.mpp, cards[0].mpp):
            raise ValueError(
                f"member {card.name} was trained at {card.mpp:g} um/px, member "
                f"{cards[0].name} at {cards[0].mpp:g}: they cannot run together"
            )


def _common_patch(cards: list[ModelCard]) -> int:
    sizes = sorted({card.patch_px for card in cards})
    if len(sizes) > 1:
        raise ValueError(
            f"members were trained on patches of {sizes} px: choose with --patch-px"
        )
    return sizes[0]
