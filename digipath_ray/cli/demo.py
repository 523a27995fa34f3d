"""``digipath demo``: a synthetic cohort, run and held against its truth."""

import csv
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from digipath_ray.cli.run import print_summary, watch
from digipath_ray.cohort import read_cohort
from digipath_ray.compare import dice
from digipath_ray.demo import build_demo_cohort
from digipath_ray.distributed.night import Summary, run_cohort
from digipath_ray.heatmap import Heatmap, read_heatmap
from digipath_ray.mask import Mask, read_mask_image
from digipath_ray.members import resolve
from digipath_ray.outcome import on_heatmap
from digipath_ray.progress import RunProgress
from digipath_ray.rundir import RunDirectory
from digipath_ray.settings import load_config


def run_demo(console: Console, out: Path) -> int:
    """Build the cohort, run it and print what was made; 0 if all went as planned.

    One slide is damaged on purpose, to show what a failure looks like.
    """
    manifest = out / "cohort" / "cohort.csv"
    console.print(f"drawing five synthetic slides into {out / 'cohort'} ...")
    if not manifest.exists():
        build_demo_cohort(out / "cohort")
    config = resolve(load_config(preset="demo"))
    with RunProgress(console) as progress:
        summary = run_cohort(
            RunDirectory(out / "run"),
            read_cohort([manifest]),
            config,
            watcher=watch(progress),
        )
    console.rule("the run")
    print_summary(console, summary, predicted=True)
    console.rule("against the truth that was drawn")
    console.print(truth_table(summary, manifest))
    console.print(
        "One slide was damaged on purpose: a failure is a row in failures.parquet, "
        "never the end of a night.\n"
        f"Look first at {summary.run.root}/overlays/"
    )
    damaged = {f.slide_id for f in summary.failures}
    return 0 if len(damaged) == 1 and summary.slides == 5 else 1


def truth_table(summary: Summary, manifest: Path) -> Table:
    """Each finished slide's overlap with the tumor that was drawn."""
    table = Table(box=None, pad_edge=False)
    table.add_column("slide")
    table.add_column("planted")
    for name in ("tumor mm2", "found mm2", "Dice", "false area"):
        table.add_column(name, justify="right")
    done = {o["slide_id"]: o for o in summary.outcomes}
    with manifest.open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        if row["slide_id"] not in done:
            table.add_row(row["slide_id"], row["label"], "failed", "", "", "")
            continue
        heatmap = read_heatmap(summary.run.heatmap(row["slide_id"]))
        truth = truth_on(heatmap, manifest.parent / row["annotation"])
        found = heatmap.probability >= 0.5
        px_mm2 = heatmap.mpp_x * heatmap.mpp_y / 1e6
        tissue_mm2 = done[row["slide_id"]]["tissue_mm2"]
        wrong = float((found & ~truth).sum()) * px_mm2 / tissue_mm2
        table.add_row(
            row["slide_id"],
            row["label"],
            f"{truth.sum() * px_mm2:.3f}",
            f"{found.sum() * px_mm2:.3f}",
            f"{dice(found, truth):.2f}" if truth.any() else "-",
            f"{wrong:.2%} of tissue",
        )
    return table


def truth_on(
    heatmap: Heatmap, path: Path
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """The drawn truth at the heatmap's pixels."""
    array = read_mask_image(path)
    height, width = heatmap.weight.shape
    scale_y, scale_x = height / array.shape[0], width / array.shape[1]
    mask = Mask(
        array=array, mpp_x=heatmap.mpp_x * scale_x, mpp_y=heatmap.mpp_y * scale_y
    )
    return on_heatmap(mask, heatmap)
