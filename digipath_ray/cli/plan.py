"""``digipath plan``: what a run of a cohort will take."""

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.cli.options import config_as_known
from digipath_ray.cli.progress import RunProgress
from digipath_ray.cli.run import print_failure, print_flags
from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree
from digipath_ray.distributed.connect import connected
from digipath_ray.distributed.prepare import prepare_cohort
from digipath_ray.machine import free_disk_bytes
from digipath_ray.networks.build import PAPER_MEMBERS
from digipath_ray.networks.resolve import resolve
from digipath_ray.planning.cost import (
    Cost,
    Pace,
    add_up,
    calibrated,
    check_pace,
    covered_px,
    describe,
    read_px,
    refuse_disk,
)
from digipath_ray.planning.prices import (
    NodeType,
    Offer,
    format_hours,
    format_reading,
    price,
    read_prices,
    work_of,
)
from digipath_ray.planning.rate import for_cpu, measure_rate
from digipath_ray.planning.speed import Calibration, read_calibration
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.listeners import FailureLog, Listeners
from digipath_ray.run.record import SlideRecord
from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url, place
from digipath_ray.words import count


def plan_cohort(
    console: Console,
    slides: Sequence[str],
    out: Path,
    tree: Tree,
    *,
    weights: str | None,
    force: bool,
    pace: Pace,
) -> int:
    """Print the cohort's cost; 1 if a slide is unusable or the results do not fit.

    A cohort of which no slide can be used has none.

    Raises:
        ValueError: the rate is given twice, or its file cannot be used.
    """
    check_pace(pace)
    types = None if pace.prices is None else read_prices(pace.prices)
    rows = read_cohort(slides)
    if pace.measure:
        config = resolve(tree, weights=weights, force=force)
    else:
        config = config_as_known(tree, weights=weights, force=force)
    if not config.members:
        config = replace(config, members=PAPER_MEMBERS)
    measured = None
    if pace.calibration is not None:
        measured = read_calibration(pace.calibration, config)
        pace = calibrated(pace, measured)
    cost, prepared, failures = count_patches(console, rows, config, out)
    for failure in failures:
        print_failure(console, failure)
    print_flags(console, [slide.to_row() for slide in prepared])
    if not prepared:
        console.print(f"[red]nothing to plan[/]: {_none_usable(len(rows))}")
        return 1
    if pace.measure:
        pace = measure_pace(console, config, pace)
    free = None if is_url(out) else free_disk_bytes(out.absolute())
    for name, value in describe(cost, config, pace, free_bytes=free):
        console.print(f"{name:<10}{escape(value)}")
    refusal = refuse_disk(cost, config, free_bytes=free)
    if refusal is not None:
        console.print(f"[red]does not fit[/]: {escape(refusal)}")
    priced = measured is None or print_prices(console, cost, measured, types, pace)
    return 0 if priced and not (failures or refusal) else 1


def print_prices(
    console: Console,
    cost: Cost,
    measured: Calibration,
    types: Sequence[NodeType] | None,
    pace: Pace,
) -> bool:
    """Print hours and prices; False if no node type of the table serves."""
    work = work_of(
        measured,
        patches=cost.patches,
        read_px=cost.read_px,
        memory_bytes=cost.stitch_bytes,
    )
    console.print(f"{'reading':<10}{format_reading(work, measured)}")
    console.print(f"{'hours':<10}{format_hours(work, by_hours=pace.by_hours)}")
    if types is None:
        return True
    offers, verdict = price(types, work, by_hours=pace.by_hours)
    if offers:
        console.print(tabulate(offers))
    console.print(f"{'price':<10}{escape(verdict)}")
    return bool(offers)


def _none_usable(slides: int) -> str:
    return "the slide cannot be used" if slides == 1 else "no slide can be used"


def count_patches(
    console: Console, rows: Sequence[SlideRow], config: RunConfig, out: Path
) -> tuple[Cost, list[SlideRecord], list[Failure]]:
    """Place every slide's patches from its real mask, in a folder soon removed."""
    with (
        connected(config.compute.cpus),
        scratch_folder(out) as folder,
        RunProgress(console) as progress,
    ):
        run = RunDirectory(folder)
        run.create()
        log = FailureLog()
        prepared = prepare_cohort(run, rows, config, Listeners(log, progress))
        covered = [covered_px(run, slide, config) for slide in prepared]
        read = [read_px(run, slide, config) for slide in prepared]
    cost = replace(add_up(prepared, covered, config), read_px=float(sum(read)))
    return cost, prepared, log.failures


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[str]:
    """A folder that is soon removed, where a run's directory is or would be.

    There, not in /tmp: on a cluster the workers must see it too.
    """
    if not is_url(out):
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=_existing(out)) as made:
            yield made
        return
    folder = place(out) / f".plan-{uuid.uuid4().hex}"
    try:
        yield str(folder)
    finally:
        for found in bucket.list_objects(folder):
            place(found.url).unlink(missing_ok=True)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.is_dir() else _existing(path.parent)


def measure_pace(console: Console, config: RunConfig, pace: Pace) -> Pace:
    """The pace with this machine's rate: of its first GPU, or of its CPUs."""
    import torch

    gpu = torch.cuda.is_available()
    device = "GPU" if gpu else "CPU"
    names = ", ".join(m.name for m in config.members)
    transforms = count(len(config.ensemble.tta), "transform")
    console.print(
        f"measuring {escape(names)} with {transforms} on this machine's {device} ..."
    )
    rate = measure_rate(
        config if gpu else for_cpu(config), device="cuda" if gpu else "cpu"
    )
    return replace(pace, rate=rate, device=device)


def tabulate(offers: Sequence[Offer]) -> Table:
    """The offers as a table for the terminal, in their order."""
    table = Table(box=None, pad_edge=False)
    table.add_column("nodes", overflow="fold")
    table.add_column("readers", overflow="fold")
    for name in ("hours", "on demand", "spot"):
        table.add_column(name, justify="right")
    for offer in offers:
        spot = "" if offer.spot_price is None else f"{offer.spot_price:,.2f}"
        table.add_row(
            f"{offer.nodes} x {offer.node.name}",
            "" if offer.reader is None else f"{offer.readers} x {offer.reader.name}",
            f"{offer.hours:.1f}",
            f"{offer.price:,.2f}",
            spot,
        )
    return table
