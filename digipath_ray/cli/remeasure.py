"""``digipath stage RUN`` and ``digipath burden RUN``: outcomes recomputed."""

from pathlib import Path
from typing import Any

from rich.console import Console

from digipath_ray.cli.ids import read_given
from digipath_ray.cli.progress import RunProgress
from digipath_ray.cli.run import exit_status, print_summary
from digipath_ray.cohort.pseudonyms import SlideIds
from digipath_ray.config.run import Ending, RunConfig
from digipath_ray.config.toml import from_tree, merge, read_toml, with_paths
from digipath_ray.distributed.run import remeasure_run
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError


def conclude(
    console: Console,
    folder: Path,
    ending: Ending,
    overrides: dict[str, Any],
    *,
    manifest: str | None = None,
    drop: bool = False,
) -> int:
    """Measure a finished run's slides again and print their outcomes; 1 if one failed.

    Args:
        console: to print to.
        folder: the run directory.
        ending: what its slides end in.
        overrides: fields of [outcome] that were given, None to unset one; the others
            stay as the run has them.
        manifest: describes the slides anew: patient, node, label, split, annotation.
        drop: take slides that the manifest does not name out of the run.

    Raises:
        ValueError: slides are to be dropped, but no manifest says which stay.
    """
    if drop and manifest is None:
        raise ValueError("--drop: give --manifest with the slides that stay")
    run = RunDirectory(folder)
    hashed: SlideIds = "hash" if run.pseudonyms.exists() else "name"
    rows = None if manifest is None else read_given(run, [manifest], hashed)
    config = config_of(run, {**overrides, "outcome": ending})
    with RunProgress(console) as progress:
        summary = remeasure_run(run, config, rows=rows, drop=drop, listener=progress)
    print_summary(console, summary, predicted=True)
    return exit_status(summary.failures, summary.unwritten)


def config_of(run: RunDirectory, outcome: dict[str, Any]) -> RunConfig:
    """The config that a run was made with, and another [outcome].

    Raises:
        RunError: no run's directory.
        ValueError: a field has a wrong value.
    """
    if not run.settings.exists():
        raise RunError(
            f"{run.root}: no run: name the directory given to digipath run --out"
        )
    merged = merge(read_toml(run.settings), {"outcome": outcome})
    kept = {k: v for k, v in merged["outcome"].items() if v is not None}
    return with_paths(from_tree({**merged, "outcome": kept}))
