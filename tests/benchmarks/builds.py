"""This build beside an earlier one: the same slides, networks and settings, in turns.

    git worktree add ../earlier COMMIT
    python -m tests.benchmarks.builds ../earlier [--rounds 2] [--cohorts negative tumor]

Runs ``digipath run --preset demo`` of both builds over synthetic lymph nodes of the
demo: a cohort that is mostly negative (one micrometastasis in twenty nodes), and nodes
with large metastases. This build runs twice: as the preset says, and with adaptive
overlap and a cascade. Slides per hour are of the whole command, its start included.
Types, lesions and tumor area are compared with the earlier build's.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from digipath_ray.demo.anatomy import Label
from digipath_ray.demo.cohort import build_cohort
from digipath_ray.demo.drawing import DemoSlide
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.directory import RunDirectory
from tests.benchmarks.peer import Cost, run_measured

HERE = Path(__file__).parents[2]
MAIN = "from digipath_ray.cli import main; main()"
COHORTS: dict[str, tuple[Label, ...]] = {
    "negative": ("micro", *("negative",) * 19),
    "tumor": ("macro",) * 8,
}
SAME = ("--no-find-artifacts",)
"""What the preset asks for that earlier builds could not do."""
LESS = ("--overlap", "adaptive", "--cascade")
THRESHOLD = 0.5


@dataclass(frozen=True)
class Variant:
    """A build, and the options that it runs with."""

    name: str
    checkout: Path
    options: tuple[str, ...] = ()
    costs: list[Cost] = field(default_factory=list)

    def run(self, manifest: Path, out: Path) -> None:
        """Run the cohort in a process of this build, and note what it took."""
        command = ["run", str(manifest), "--preset", "demo", "--out", str(out)]
        self.costs.append(
            run_measured(
                [sys.executable, "-c", MAIN, *command, *self.options],
                {**os.environ, "PYTHONPATH": str(self.checkout)},
                cwd=out.parent,  # Ray's workers import what lies in the current folder
            )
        )


def draw_cohort(folder: Path, labels: Sequence[Label]) -> Path:
    """Nodes of these labels, one patient each."""
    seeds = np.random.SeedSequence(16).generate_state(len(labels)).tolist()
    return build_cohort(
        folder,
        [
            DemoSlide(
                slide_id=f"node_{n}",
                patient_id=f"patient_{n}",
                node=1,
                label=label,
                seed=seed,
                width=4864,
                tissue_mm=(3.7, 2.8),
            )
            for n, (label, seed) in enumerate(zip(labels, seeds, strict=True))
        ],
    )


def outcomes_of(run: RunDirectory) -> dict[str, dict[str, object]]:
    """Slide id -> its row of outcomes."""
    rows = pq.read_table(run.outcomes).to_pylist()
    return {str(row["slide_id"]): row for row in rows}


def differences(one: RunDirectory, other: RunDirectory) -> str:
    """How the slides of two runs differ, in words."""
    a, b = outcomes_of(one), outcomes_of(other)
    if a.keys() != b.keys():
        return f"slides {sorted(a.keys() ^ b.keys())} are in one run only"
    both = either = 0
    types = lesions = 0
    largest = feret = 0.0
    for slide_id, row in a.items():
        maps = [read_heatmap(r.heatmap(slide_id)) for r in (one, other)]
        covered = maps[0].covered & maps[1].covered
        p, q = (np.where(covered, m.probability, 0) for m in maps)
        largest = max(largest, float(np.abs(p - q).max()))
        both += int(((p >= THRESHOLD) & (q >= THRESHOLD)).sum())
        either += int(((p >= THRESHOLD) | (q >= THRESHOLD)).sum())
        types += row["metastasis"] != b[slide_id]["metastasis"]
        lesions += row["lesions"] != b[slide_id]["lesions"]
        longest = [float(r["largest_um"] or 0) for r in (row, b[slide_id])]  # type: ignore[arg-type]
        feret = max(feret, abs(longest[0] - longest[1]))
    return (
        f"{types} types, {lesions} counts of lesions, longest by {feret:.1f} um, IoU "
        f"{both / either if either else 1:.4f}, largest difference {largest:.3f}"
    )


def main() -> None:
    """Run all in turns and print a table for each cohort."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("earlier", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--nodes", type=int, help="at most, of a cohort")
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=list(COHORTS))
    arguments = parser.parse_args()
    for name in arguments.cohorts:
        variants = (
            Variant("earlier", arguments.earlier.resolve()),
            Variant("this build", HERE, SAME),
            Variant(f"this build {' '.join(LESS)}", HERE, (*SAME, *LESS)),
        )
        with tempfile.TemporaryDirectory() as folder:
            labels = COHORTS[name][: arguments.nodes]
            show(name, labels, Path(folder), variants, arguments.rounds)


def show(
    name: str,
    labels: Sequence[Label],
    folder: Path,
    variants: Sequence[Variant],
    rounds: int,
) -> None:
    """Run a cohort by all variants, and print how long they took and what differs."""
    manifest = draw_cohort(folder, labels)
    for number in range(rounds):
        for n, variant in enumerate(variants):
            variant.run(manifest, folder / f"run-{n}-{number}")
            cost = variant.costs[-1]
            print(
                f"  {variant.name}: {cost.wall:.0f} s, {cost.cpu:.0f} CPU s", flush=True
            )
    runs = [RunDirectory(folder / f"run-{n}-0") for n in range(len(variants))]
    print(f"{name}: {len(labels)} slides")
    print("| build | seconds | CPU seconds | slides/hour, times | differences |")
    print("|---|---|---|---|---|")
    base = statistics.median(cost.wall for cost in variants[0].costs)
    for variant, run in zip(variants, runs, strict=True):
        wall, cpu = (
            ", ".join(f"{getattr(cost, name):.0f}" for cost in variant.costs)
            for name in ("wall", "cpu")
        )
        seconds = statistics.median(cost.wall for cost in variant.costs)
        rate = len(labels) / seconds * 3600
        print(
            f"| {variant.name} | {wall} | {cpu} | {rate:.0f}, "
            f"{base / seconds:.2f} | {differences(runs[0], run)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
