"""How the settings of two runs or fits differ in what makes their results."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from digipath_ray.config.member import MemberSpec
from digipath_ray.config.toml import SECTIONS

FREE_TO_CHANGE = (
    "fit.epochs", "fit.patience", "fit.workers", "fit.worker_gpus", "fit.cpus",
    "fit.readers", "fit.members_at_once", "fit.restarts", "fit.max_failed",
)  # fmt: skip
"""Settings with which a fit may be resumed: how long, where and how fast."""


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines naming each field whose value changes a heatmap and is not the same.

    ``[compute]`` is left out, but for the precision: where and how fast a run goes
    does not change what it finds. So is ``[outcome]``, which is recomputed.
    """

    def flat(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for section, body in tree.items():
            if section == "members":
                for row in body:
                    out.update(_flat_member(row, other.get("members", [])))
            elif section not in ("compute", "outcome"):
                out.update({f"{section}.{k}": v for k, v in body.items()})
        out["compute.precision"] = tree.get("compute", {}).get("precision")
        return out

    # A setting that an older version did not have yet has its default, or is empty.
    b = flat(new, old)
    a = {key: d for key in b if (d := _default_of(key)) is not None} | flat(old, new)
    ignored = {*FREE_TO_CHANGE}
    if not any(
        tree.get("grid.overlap") == "adaptive" or tree.get("ensemble.cascade")
        for tree in (a, b)
    ):
        ignored |= {"grid.doubt", "grid.doubt_um"}
    return [
        f"{key}: {a.get(key, 'not set')} -> {b.get(key, 'not set')}"
        for key in sorted((a.keys() | b.keys()) - ignored)
        if a.get(key) != b.get(key) and (key in a or b.get(key) != [])
    ]


def _flat_member(
    row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A member's fields by full name; a file is known by its digest, wherever it is.

    Only where the member of that name in ``others`` has one, too: an older version kept
    none of the weights that a fit starts from.
    """
    # It decides whether a fit starts at all, not what comes out of it.
    kept = {k: v for k, v in row.items() if k != "encoder_by_order"}
    for other in (o for o in others if o["name"] == row["name"]):
        if "digest" not in row or "digest" not in other:
            kept.pop("digest", None)
            continue
        for key in ("weights", "encoder_weights"):
            if _names_file(row.get(key)) and _names_file(other.get(key)):
                del kept[key]
    return {f"members.{row['name']}.{k}": v for k, v in kept.items()}


def _names_file(weights: str | None) -> bool:
    return weights not in (None, "random", "imagenet")


def _default_of(key: str) -> Any:
    """Default of a setting by its full name, as a tree holds it; None without one."""
    section, _, rest = key.partition(".")
    # A member's name may hold dots: members.NAME.field.
    if section == "members":
        return defaults_of(MemberSpec).get(rest.rpartition(".")[2])
    return defaults_of(SECTIONS[section]).get(rest) if section in SECTIONS else None


@functools.cache
def defaults_of(spec: type[Any]) -> dict[str, Any]:
    """Name of each field of a section that has a default -> this."""
    return {
        f.name: list(f.default) if isinstance(f.default, tuple) else f.default
        for f in fields(spec)
        if f.default not in (MISSING, None)
    }
