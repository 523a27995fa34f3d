"""``digipath run --repeat RUN``: the same run again, held against the first."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from digipath_ray.cli.progress import RunProgress
from digipath_ray.cli.run import exit_status, print_summary
from digipath_ray.cohort.manifest import read_manifest
from digipath_ray.cohort.pseudonyms import read_pseudonyms, write_pseudonyms
from digipath_ray.config.toml import Tree, merge, read_toml
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.finished import read_run
from digipath_ray.storage.files import publish
from digipath_ray.verify.reproduce import compare_repeated, find_changes
from digipath_ray.words import count

SHOWN = 20
"""Differences that are printed."""


def repeat_run(
    console: Console, folder: Path, out: Path, given: Tree, slides: Sequence[str]
) -> int:
    """Run a finished run again and compare; 1 if a slide failed or differs.

    Args:
        console: to print to.
        folder: the run directory.
        out: another one, for the repetition.
        given: settings of this start: workers, batches, pools.
        slides: none, as they are those of the run.

    Raises:
        RunError: versions, slides or settings are not those of the run; or the two
            directories are one.
        ValueError: the folder is no run's, or weights are not those of the run.
    """
    first, second = RunDirectory(folder), RunDirectory(out)
    if first.root == second.root:
        raise RunError("--repeat: name another --out than the run that is repeated")
    done = read_run(first).records
    then = read_toml(first.settings)
    others = ["SLIDES"] if slides else list(settings_that_decide(given, then))
    if others:
        raise RunError(
            "--repeat takes the run's own slides and settings: leave out "
            f"{', '.join(others)}"
        )
    precision = next(iter(done.values())).precision  # a run has one
    tree = merge(then, given, {"compute": {"precision": precision}})
    # Forced: what contradicts the cards was accepted when the run was started.
    config = resolve(tree, force=True)
    changes = find_changes(done, config)
    if changes:
        lines = "\n  ".join(changes[:SHOWN])
        more = f"\n  and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        raise RunError(
            f"{first.root} cannot be repeated as it was:\n  {lines}{more}\nInstall "
            "what it was made with; or run its manifest.csv with --config run.toml and "
            "hold the two together with digipath compare"
        )
    rows = [row for row, _ in read_manifest(first.manifest)]
    if first.pseudonyms.exists():  # its ids are hashed: whom they stand for, too
        with publish(second.pseudonyms) as path:
            write_pseudonyms(read_pseudonyms(first.pseudonyms).values(), path)
    with RunProgress(console) as progress:
        summary = run_cohort(second, rows, config, listener=progress)
    print_summary(console, summary, predicted=True)
    status = exit_status(summary.failures, summary.unwritten)
    return print_agreement(console, first, second) or status


def settings_that_decide(given: Tree, then: Tree) -> Iterator[str]:
    """Yield the settings of this start on which results depend, as SECTION.NAME."""
    adaptive = then.get("grid", {}).get("overlap") == "adaptive"
    for section, fields in given.items():
        for name in fields:
            # Where overlap is adaptive, a chunk's edges are always predicted.
            decides = name == "precision" or (name == "chunk_cells" and adaptive)
            if section != "compute" or decides:
                yield f"{section}.{name}"


def print_agreement(console: Console, first: RunDirectory, second: RunDirectory) -> int:
    """Print how far a repetition is from the first run; 1 if it is too far."""
    found = compare_repeated(first, second)
    for line in found.wrong[:SHOWN]:
        console.print(f"[red]differs[/]   {escape(line)}")
    if len(found.wrong) > SHOWN:
        console.print(f"          and {len(found.wrong) - SHOWN} more")
    console.print(
        f"repeated  {count(found.slides, 'heatmap')}, {found.identical} to the bit; "
        f"largest difference {found.largest:.2g}, mean of the probability at most "
        f"{found.mean:.2g}; {count(len(found.wrong), 'difference')} beyond rounding"
    )
    return 1 if found.wrong else 0
