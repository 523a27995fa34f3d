"""The settings given for a run: preset, TOML file and options, merged into a tree.

A tree is kept until the last moment, so that what was not given can still come from a
member's card (:func:`digipath_ray.networks.resolve.resolve`).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from digipath_ray.config.artifacts import ArtifactSpec
from digipath_ray.config.fit_classes import ClassSpec
from digipath_ray.config.member import WEIGHTS_SUFFIXES
from digipath_ray.config.recipe import (
    AnnotationSpec,
    AugmentSpec,
    FitSpec,
    LossSpec,
    Recipe,
    SamplingSpec,
)
from digipath_ray.config.run import (
    ComputeSpec,
    EnsembleSpec,
    GridSpec,
    MemberSpec,
    OutcomeSpec,
    RunConfig,
    RunSlideSpec,
    SlideSpec,
    TissueSpec,
)
from digipath_ray.storage.files import is_url, place, read_text

PRESETS = ("camelyon16", "camelyon17", "paip2019", "digestpath2019", "glas", "demo")
SHARED_SECTIONS: dict[str, type[Any]] = {
    "slide": SlideSpec,
    "tissue": TissueSpec,
    "grid": GridSpec,
}
RUN_SECTIONS = {
    **SHARED_SECTIONS,
    "slide": RunSlideSpec,
    "artifacts": ArtifactSpec,
    "ensemble": EnsembleSpec,
    "outcome": OutcomeSpec,
    "compute": ComputeSpec,
}
RECIPE_SECTIONS = {
    **SHARED_SECTIONS,
    "annotations": AnnotationSpec,
    "sampling": SamplingSpec,
    "augment": AugmentSpec,
    "loss": LossSpec,
    "fit": FitSpec,
    "classes": ClassSpec,
}
SECTIONS = {**RUN_SECTIONS, **RECIPE_SECTIONS, "slide": RunSlideSpec}
"""A TOML file may hold them all: it fits an ensemble and runs it."""
DILATE_UM = 240.0
"""Default of [tissue] dilate_um in version 0.1."""
PATHS = {
    "sampling": ("hard_examples", "extra_annotations"),
    "outcome": ("stage_model",),
}
"""Fields that name a path, by section: from a TOML file, beside it."""
OPTIONS_ONLY = {
    "magnification": "mpp, the um per px (40x is 0.25, 20x is 0.5)",
    "overlap_px": "stride_px, which is patch_px less the overlap",
}
"""What the command line alone may say of [grid], and what a file says in its place."""

Tree = dict[str, Any]
"""A config as TOML reads it: section -> field -> value, and ``members``: a list."""


def option_fields(
    sections: Mapping[str, type[Any]] = RUN_SECTIONS,
) -> dict[str, tuple[str, Any, Any]]:
    """Every overridable field: option -> (section, dataclass field, resolved type)."""
    found: dict[str, tuple[str, Any, Any]] = {}
    for section, spec in sections.items():
        hints = get_type_hints(spec)
        for f in fields(spec):
            found[option_name(f)] = (section, f, hints[f.name])
    return found


def option_name(field: Field[Any]) -> str:
    """Name of a field's option, with underscores."""
    return str(field.metadata.get("flag", field.name))


def read_toml(path: Path) -> Tree:
    """The config tree of a TOML file, its ``preset`` key merged underneath.

    Raises:
        ValueError: the file is missing, no TOML, or names an unknown section or field.
    """
    try:
        tree = parse_toml(read_text(path))
    except FileNotFoundError as e:
        raise ValueError(f"config {path}: file not found") from e
    except ValueError as e:
        raise ValueError(f"config {path}: {e}") from e
    preset = tree.pop("preset", None)
    try:
        check_tree(tree)
        for row in tree.get("members", []):
            row.update(_found_beside(path, row.get("weights")))
        for section, names in PATHS.items():
            for name in names:
                value = tree.get(section, {}).get(name)
                if isinstance(value, str):
                    tree[section][name] = _beside(path, value)
        return merge(read_preset(preset), tree) if preset is not None else tree
    except ValueError as e:
        raise ValueError(f"config {path}: {e}") from e


def parse_toml(text: str) -> Tree:
    """The tree of a TOML text, with the settings of version 0.1 where they are now.

    Raises:
        ValueError: not TOML, or a setting is there in both forms.
    """
    tree = load_toml(text)
    _move_dilation(tree)
    _move_stain_jitter(tree)
    ensemble = tree.get("ensemble")
    if not isinstance(ensemble, dict) or "threshold" not in ensemble:
        return tree
    outcome = tree.setdefault("outcome", {})
    if not isinstance(outcome, dict):
        return tree  # which is refused for that
    if "threshold" in outcome:
        raise ValueError(
            "threshold is in [ensemble] and in [outcome]: keep the one in [outcome]"
        )
    outcome["threshold"] = ensemble.pop("threshold")
    return tree


def load_toml(text: str) -> Tree:
    """The tree of a TOML text.

    Raises:
        ValueError: not TOML, or nested beyond reason.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise ValueError(f"not valid TOML: {e}") from e


def _move_dilation(tree: Tree) -> None:
    """Turn [tissue] dilate_um of version 0.1 into margin_um.

    Its default, 240, becomes the default of now: both give the same values on tissue.
    """
    tissue = tree.get("tissue")
    if not isinstance(tissue, dict) or "dilate_um" not in tissue:
        return
    if "margin_um" in tissue:
        raise ValueError("dilate_um is margin_um now: keep [tissue] margin_um alone")
    dilate_um = tissue.pop("dilate_um")
    if dilate_um != DILATE_UM:
        tissue["margin_um"] = dilate_um


def _move_stain_jitter(tree: Tree) -> None:
    """Turn [augment] hed, its name before it was stain, into that."""
    augment = tree.get("augment")
    if not isinstance(augment, dict) or "hed" not in augment:
        return
    if "stain" in augment:
        raise ValueError("hed is stain now: keep [augment] stain alone")
    augment["stain"] = augment.pop("hed")


def _found_beside(path: Path, weights: object) -> dict[str, str]:
    """Weights named by a relative path lie beside the file that names them."""
    if not isinstance(weights, str) or not weights.endswith(WEIGHTS_SUFFIXES):
        return {}
    return {"weights": _beside(path, weights)}


def _beside(path: Path, value: str) -> str:
    """What a file at ``path`` names, seen from anywhere."""
    named = Path(value).expanduser()
    if is_url(value) or named.is_absolute():
        return str(place(value))
    return str((path if is_url(path) else path.absolute()).parent / named)


def read_preset(name: str) -> Tree:
    """The config tree of a preset shipped with the package."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ValueError(f"preset {name!r} is unknown: choose from {known}")
    path = Path(str(resources.files("digipath_ray.presets") / f"{name}.toml"))
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    check_tree(tree)
    for row in tree.get("members", []):
        row.update(_found_beside(path, row.get("weights")))
    return tree


def check_tree(tree: Mapping[str, Any]) -> None:
    """Refuse unknown sections and fields, naming the closest known ones."""
    for section, body in tree.items():
        if section == "members":
            known = {f.name for f in fields(MemberSpec)}
            if not (isinstance(body, list) and all(isinstance(r, dict) for r in body)):
                raise ValueError(f"members = {body!r:.100}: write [[members]] tables")
            keys = {key for row in body for key in row}
        elif section in SECTIONS:
            if not isinstance(body, dict):
                raise ValueError(
                    f"{section} = {body!r:.100}: write a table [{section}]"
                )
            known = {f.name for f in fields(SECTIONS[section])}
            keys = set(body)
        else:
            raise ValueError(
                f"unknown section [{section}]: known are "
                + ", ".join([*SECTIONS, "members"])
            )
        for key in sorted(keys - known):
            if section == "grid" and key in OPTIONS_ONLY:
                raise ValueError(
                    f"{key!r} in [grid]: only an option of the command line "
                    f"(--{key.replace('_', '-')}): write {OPTIONS_ONLY[key]}"
                )
            raise ValueError(
                f"unknown field {key!r} in [{section}]: known are "
                + ", ".join(sorted(known))
            )


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Trees laid over each other, the last one winning; ``members`` go as a whole."""
    merged: Tree = {}
    for tree in trees:
        for section, body in tree.items():
            if section == "members":
                merged["members"] = body
            else:
                merged[section] = {**merged.get(section, {}), **body}
    return merged


def _typed(where: str, value: Any, hint: Any) -> Any:
    """A TOML value as a field takes it: int to float, list to tuple.

    Raises:
        ValueError: it is of another type; the message names the field.
    """
    value = tuple(value) if isinstance(value, list) else value
    try:
        # Strict: "0.5" is no number, and true is no 1.
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as e:
        if all(error["type"] == "literal_error" for error in e.errors()):
            return value  # the spec itself names the choices
        wanted = getattr(hint, "__name__", str(hint)) if type(hint) is type else hint
        raise ValueError(f"{where} = {value!r}: must be of type {wanted}") from e


def _member_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """A [[members]] table's values; wrong types are refused."""
    hints = get_type_hints(MemberSpec)
    return {k: _typed(f"members.{k}", v, hints[k]) for k, v in row.items()}


def from_tree(tree: Mapping[str, Any]) -> RunConfig:
    """The checked config of a tree; the sections of a fit are left out.

    Raises:
        ValueError: naming the field and the value.
    """
    check_tree(tree)
    return RunConfig(members=_members(tree), **specs_from_tree(tree, RUN_SECTIONS))


def recipe_from_tree(tree: Mapping[str, Any]) -> Recipe:
    """The checked recipe of a tree; the sections of a run are left out.

    Raises:
        ValueError: naming the field and the value.
    """
    check_tree(tree)
    specs = specs_from_tree(tree, RECIPE_SECTIONS)
    return Recipe(members=_fitted_members(tree, specs["classes"]), **specs)


def specs_from_tree(
    tree: Mapping[str, Any], sections: Mapping[str, type[Any]]
) -> dict[str, Any]:
    """The checked spec of each section, by its name.

    Raises:
        ValueError: naming the field and the value.
    """
    specs: dict[str, Any] = {}
    for section, spec in sections.items():
        hints = get_type_hints(spec)
        # Fields of a run alone are left out of a fit's section.
        others = {f.name for f in fields(SECTIONS.get(section, spec))} - hints.keys()
        body = {k: v for k, v in tree.get(section, {}).items() if k not in others}
        values = {k: _typed(f"{section}.{k}", v, hints[k]) for k, v in body.items()}
        specs[section] = spec(**values)
    return specs


def _members(tree: Mapping[str, Any]) -> tuple[MemberSpec, ...]:
    """The checked members of a tree."""
    required = [
        f.name
        for f in fields(MemberSpec)
        if f.default is MISSING and f.default_factory is MISSING
    ]
    members = []
    for row in tree.get("members", []):
        for name in required:
            if name not in row:
                raise ValueError(f"[[members]] {row!r}: field {name!r} is missing")
        members.append(MemberSpec(**_member_values(row)))
    return tuple(members)


def _fitted_members(
    tree: Mapping[str, Any], classes: ClassSpec
) -> tuple[MemberSpec, ...]:
    """The members of a fit, which answer with its classes unless they say otherwise."""
    if not classes.names:
        return _members(tree)
    known = {
        "classes": list(classes.names),
        "tumor_classes": list(classes.tumor),
        "whole_classes": list(classes.whole),
    }
    rows = [{**known, **row} for row in tree.get("members", [])]
    return _members({"members": rows})


def to_tree(config: RunConfig | Recipe) -> Tree:
    """The config as a TOML-ready tree; fields that are None are left out."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if v is not None}
        if isinstance(value, (list, tuple)):
            return [clean(v) for v in value]
        return value

    return cast(Tree, clean(asdict(config)))


def with_paths(config: RunConfig) -> RunConfig:
    """The config with its paths as a process in another folder finds them."""
    model = config.outcome.stage_model
    if model is None:
        return config
    model = str(Path(model).expanduser().absolute())
    return replace(config, outcome=replace(config.outcome, stage_model=model))


def load_config(
    *,
    preset: str | None = None,
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Tree:
    """Preset, then file, then overrides, merged into one tree of what was given.

    Kept a tree, so that what was not given can still come from a member's card
    (:func:`digipath_ray.networks.resolve.resolve`).
    """
    trees: list[Tree] = []
    if preset is not None:
        trees.append(read_preset(preset))
    if path is not None:
        trees.append(read_toml(path))
    if overrides:
        check_tree(overrides)
        trees.append(dict(overrides))
    return merge(*trees)
