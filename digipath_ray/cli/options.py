"""Every config field as a command-line option, made from the dataclasses."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer

from digipath_ray.config import PRESETS, TRANSFORMS, Tree, load_config, option_fields
from digipath_ray.geometry import mpp_from_magnification

Command = Callable[..., int]

SlidesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDES...",
        help="slide files, folders, globs, or a cohort table (CSV, TSV, Parquet)",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="the run directory", show_default=False)
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="make again what is already finished")
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="a .safetensors file, a folder of them with their cards, 'imagenet' or "
        "'random' (to try the plumbing)",
        show_default=False,
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="accept an mpp that the weights' cards deny")
]


def _parameter(name: str, hint: Any, panel: str, text: str) -> inspect.Parameter:
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=text,
        rich_help_panel=panel,
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[hint, option],
    )


def _cli_type(hint: Any) -> Any:
    """The type of an option that may be left out: tuples become one text."""
    if get_origin(hint) is tuple:
        return str | None
    return hint | None


def _config_parameters() -> list[inspect.Parameter]:
    found = []
    for name, (section, f, hint) in option_fields().items():
        default = "" if f.default is None else f" [default: {_show(f.default)}]"
        text = f"{f.metadata['help']}{default}"
        found.append(_parameter(name, _cli_type(hint), f"[{section}]", text))
        if name == "mpp":
            found.append(
                _parameter(
                    "magnification",
                    float | None,
                    "[grid]",
                    "in place of --mpp: 40 is 0.25",
                )
            )
        if name == "stride_px":
            found.append(
                _parameter(
                    "overlap_px", int | None, "[grid]", "in place of --stride-px, px"
                )
            )
    preset = Literal[PRESETS]  # type: ignore[valid-type]
    found.append(_parameter("preset", preset | None, "Config", "a dataset's settings"))
    found.append(_parameter("config", Path | None, "Config", "a TOML file of settings"))
    return found


def _show(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def with_config(command: Command) -> Command:
    """Give a command every config option; it is called with the merged ``tree``."""
    added = _config_parameters()
    own = [
        p for p in inspect.signature(command).parameters.values() if p.name != "tree"
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> int:
        said = {p.name: given.pop(p.name) for p in added}
        return command(**given, tree=merged_tree(said))

    wrapped.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    return wrapped


def merged_tree(said: dict[str, Any]) -> Tree:
    """Preset, file and options merged into one tree of what was said."""
    preset, path = said.pop("preset"), said.pop("config")
    magnification, overlap = said.pop("magnification"), said.pop("overlap_px")
    overrides: Tree = {}
    options = option_fields()
    for name, value in said.items():
        if value is None:
            continue
        section, _, hint = options[name]
        is_list = get_origin(hint) is tuple
        chosen = parse_transforms(value) if is_list else value
        overrides.setdefault(section, {})[name] = chosen
    grid = overrides.setdefault("grid", {})
    if magnification is not None:
        if "mpp" in grid:
            raise ValueError("give --mpp or --magnification, not both")
        grid["mpp"] = mpp_from_magnification(magnification)
    tree = load_config(preset=preset, path=path, overrides=overrides)
    if overlap is not None:
        if "stride_px" in grid:
            raise ValueError("give --stride-px or --overlap-px, not both")
        default = option_fields()["patch_px"][1].default
        tree["grid"]["stride_px"] = tree["grid"].get("patch_px", default) - overlap
    return tree


def parse_transforms(text: str) -> list[str]:
    """Comma-separated transforms; ``all`` is every one, ``none`` the identity alone."""
    if text == "all":
        return list(TRANSFORMS)
    if text == "none":
        return ["identity"]
    return [part.strip() for part in text.split(",") if part.strip()]
