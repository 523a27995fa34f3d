"""Every config field as a command-line option, made from the dataclasses."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.markup import escape

from digipath_ray.config.run import TRANSFORMS, OutcomeSpec, RunConfig
from digipath_ray.config.toml import (
    DILATE_UM,
    PRESETS,
    RECIPE_SECTIONS,
    RUN_SECTIONS,
    Tree,
    from_tree,
    load_config,
    option_fields,
    option_name,
    specs_from_tree,
)
from digipath_ray.geometry import mpp_from_magnification

Command = Callable[..., int]
Sections = Mapping[str, type[Any]]
NO = "no-"
"""What turns a flag off that a preset or config file turned on."""


def _parameter(
    flag: str,
    hint: Any,
    panel: str,
    text: str,
    *,
    default: Any = None,
    hidden: bool = False,
) -> inspect.Parameter:
    """A keyword-only parameter of a command: the option ``--flag``, or its default."""
    option = typer.Option(
        f"--{flag}",
        help=escape(text),
        rich_help_panel=escape(panel),
        show_default=default is not None,
        hidden=hidden,
    )
    return inspect.Parameter(
        _name_of(flag),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint, option],
    )


def _name_of(flag: str) -> str:
    return flag.partition("/")[0].replace("-", "_")


def _cli_type(hint: Any) -> Any:
    """The type of an option that may be left out: tuples become one text."""
    if get_origin(hint) is tuple:
        return str | None
    return hint | None


def _config_parameters(sections: Sections) -> list[inspect.Parameter]:
    """An option per config field, the two other ways to say one, preset and file."""
    found = []
    for name, (section, f, hint) in option_fields(sections).items():
        panel = f"[{section}]"
        found += _field_parameters(name.replace("_", "-"), f, hint, panel)
        if name == "mpp":
            text = "in place of --mpp: 40 is 0.25, 20 is 0.5"
            found.append(_parameter("magnification", float | None, panel, text))
        if name == "margin_um":
            text = "version 0.1's name of --margin-um, with 240 its default"
            found.append(
                _parameter("dilate-um", float | None, panel, text, hidden=True)
            )
        if (section, name) == ("augment", "stain"):
            text = "what --stain of this command was called before"
            found.append(_parameter("hed", float | None, panel, text, hidden=True))
        if name == "stride_px":
            text = "in place of --stride-px: what neighboring patches share, model px"
            found.append(_parameter("overlap-px", int | None, panel, text))
    preset = Literal[PRESETS]  # type: ignore[valid-type]
    text = (
        "a data set's settings (demo: for the synthetic slides of 'digipath demo' "
        "alone); config file and options win over it"
    )
    found.append(_parameter("preset", preset | None, "Config", text))
    text = "a TOML file of settings, in the sections shown here; options win over it"
    found.append(_parameter("config", Path | None, "Config", text))
    return found


def _field_parameters(
    flag: str, field: Field[Any], hint: Any, panel: str
) -> list[inspect.Parameter]:
    """A field's option; a flag's ``--no-`` is hidden where that is the default."""
    text = field.metadata["help"]
    if _is_transforms(hint):
        text += f"; of {', '.join(TRANSFORMS)}; or all"
    if field.default is not None:
        text += f" (default: {_show(field.default)})"
    names = f"{flag}/--{NO}{flag}" if field.default is True else flag
    found = [_parameter(names, _cli_type(hint), panel, text)]
    if field.default is False:
        found.append(_parameter(f"{NO}{flag}", hint | None, panel, text, hidden=True))
    return found


def _show(value: Any) -> str:
    """A default as a user would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ",".join(map(_show, value)) if isinstance(value, tuple) else str(value)


def _is_transforms(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[0] not in (int, float, str)


def with_config(command: Command) -> Command:
    """Give a command every option of a run; it is called with the merged ``tree``."""
    return _with_options(command, RUN_SECTIONS)


def with_recipe(command: Command) -> Command:
    """Give a command every option of a fit; it is called with the merged ``tree``."""
    return _with_options(command, RECIPE_SECTIONS)


def _with_options(command: Command, sections: Sections) -> Command:
    added = _config_parameters(sections)
    own = [
        p for p in inspect.signature(command).parameters.values() if p.name != "tree"
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> int:
        values = {p.name: given.pop(p.name) for p in added}
        return command(**given, tree=merged_tree(values, sections))

    return _taking(wrapped, [*own, *added])


def with_specs(command: Command) -> Command:
    """Give a command an option per field in place of each parameter that is a spec.

    It is called with the specs, checked.
    """
    own = inspect.signature(command).parameters.values()
    specs: dict[str, type[Any]] = {
        p.name: p.annotation
        for p in own
        if isinstance(p.annotation, type) and is_dataclass(p.annotation)
    }
    added = {
        name: _parameter(
            name.replace("_", "-"),
            _cli_type(hint),
            "Options",
            f.metadata["help"],
            default=f.default or None,
        )
        for name, (_, f, hint) in option_fields(specs).items()
    }

    @functools.wraps(command)
    def wrapped(**given: Any) -> int:
        values = {name: given.pop(name) for name in added}
        return command(**given, **specs_from_tree(_overrides(values, specs), specs))

    parameters: list[inspect.Parameter] = []
    for p in own:
        own_fields = fields(specs[p.name]) if p.name in specs else ()
        names = [option_name(f) for f in own_fields]
        parameters += [added[name] for name in names] or [p]
    return _taking(wrapped, parameters)


def with_outcome(*names: str) -> Callable[[Command], Command]:
    """Give a command options of [outcome]; it is called with those that were given.

    Args:
        names: of the fields.
    """
    sections = {"outcome": OutcomeSpec}
    options = option_fields(sections)
    added = [
        parameter
        for name in names
        for parameter in _field_parameters(
            name.replace("_", "-"), *options[name][1:], "[outcome]"
        )
    ]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command).parameters.values()
        own = [p for p in signature if p.name != "overrides"]

        @functools.wraps(command)
        def wrapped(**given: Any) -> int:
            values = {p.name: given.pop(p.name) for p in added}
            return command(
                **given,
                overrides=_overrides(values, sections).get("outcome", {}),
            )

        return _taking(wrapped, [*own, *added])

    return decorate


def _taking(command: Command, parameters: Sequence[inspect.Parameter]) -> Command:
    """The command with a signature that typer makes its options of."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def merged_tree(values: dict[str, Any], sections: Sections = RUN_SECTIONS) -> Tree:
    """Preset, file and options merged into one tree of settings.

    Args:
        values: value of every option, None where not given.
        sections: whose fields the options are.

    Raises:
        ValueError: one setting given in two ways, or what :func:`load_config` refuses.
    """
    values = dict(values)
    preset, path = values.pop("preset"), values.pop("config")
    magnification, overlap, dilate_um = (
        values.pop("magnification"),
        values.pop("overlap_px"),
        values.pop("dilate_um"),
    )
    hed = values.pop("hed", None)  # of a fit's options alone
    overrides = _overrides(values, sections)
    if hed is not None:
        augment = overrides.setdefault("augment", {})
        _refuse_both(augment, "stain", "--stain", "--hed")
        augment["stain"] = hed
    if dilate_um is not None:
        tissue = overrides.setdefault("tissue", {})
        _refuse_both(tissue, "margin_um", "--margin-um", "--dilate-um")
        tissue["margin_um"] = 0.0 if dilate_um == DILATE_UM else dilate_um
    grid = overrides.setdefault("grid", {})
    if magnification is not None:
        _refuse_both(grid, "mpp", "--mpp", "--magnification")
        grid["mpp"] = mpp_from_magnification(magnification)
    if overlap is not None:
        _refuse_both(grid, "stride_px", "--stride-px", "--overlap-px")
    tree = load_config(preset=preset, path=path, overrides=overrides)
    if overlap is not None:
        tree["grid"]["stride_px"] = _stride(tree["grid"].get("patch_px"), overlap)
    return tree


def _overrides(values: dict[str, Any], sections: Sections) -> Tree:
    """The options that were given, by section."""
    overrides: Tree = {}
    options = option_fields(sections)
    for name, value in values.items():
        if value is None:
            continue
        if name not in options:  # the hidden --no- of a flag
            name, value = name.removeprefix(_name_of(NO)), False
        section, f, hint = options[name]
        if get_origin(hint) is tuple:
            value = _parse_list(name, value, get_args(hint)[0])
        overrides.setdefault(section, {})[f.name] = value
    return overrides


def _parse_list(name: str, text: str, kind: Any) -> list[Any]:
    """Comma-separated numbers, texts or transforms.

    Raises:
        ValueError: what should be a number is none.
    """
    if kind not in (int, float, str):
        return parse_transforms(text)
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as e:
        flag = name.replace("_", "-")
        raise ValueError(
            f"--{flag} {text!r}: must be numbers of type {kind.__name__}, separated by "
            "commas"
        ) from e


def _refuse_both(section: Tree, name: str, option: str, other: str) -> None:
    if name in section:
        raise ValueError(f"{option} and {other} say the same thing: give one of them")


def _stride(patch_px: int | None, overlap_px: int) -> int:
    if patch_px is None:
        raise ValueError(
            f"--overlap-px {overlap_px} needs to know the patch: give --patch-px too, "
            "or --stride-px in its place"
        )
    if not 0 <= overlap_px < patch_px:
        raise ValueError(
            f"--overlap-px {overlap_px}: must be from 0 to less than the patch "
            f"({patch_px} px)"
        )
    return patch_px - overlap_px


def parse_transforms(text: str) -> list[str]:
    """Comma-separated transforms; ``all`` is every one, ``none`` the identity alone."""
    if text == "all":
        return list(TRANSFORMS)
    if text == "none":
        return ["identity"]
    return [part.strip() for part in text.split(",") if part.strip()]


def config_as_known(
    tree: Tree, *, weights: str | None = None, force: bool = False
) -> RunConfig:
    """The config for a look at slides, for which no weights need be there.

    Where weights are named it is the run's own
    (:func:`digipath_ray.networks.resolve.resolve`): their cards say the mpp. Else it is
    the settings given, a stride not given being half the patch.

    Raises:
        ValueError: as ``resolve``.
    """
    named = {m.get("weights") for m in tree.get("members", [])}
    if weights is not None or named - {None, "random", "imagenet"}:
        # Imported late: torch takes seconds, which a look at a slide does not need.
        from digipath_ray.networks.resolve import resolve

        return resolve(tree, weights=weights, force=force, allow_partial=True)
    grid = dict(tree.get("grid", {}))
    if isinstance(grid.get("patch_px"), int):
        grid.setdefault("stride_px", grid["patch_px"] // 2)
    return from_tree({**tree, "grid": grid})
