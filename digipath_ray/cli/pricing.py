"""What ``digipath plan`` says of hours and prices where a calibration is given."""

from collections.abc import Sequence

from rich.table import Table

from digipath_ray.cli.progress import duration
from digipath_ray.cli.words import count
from digipath_ray.planning.calibration import Calibration
from digipath_ray.planning.prices import NodeType, Offer, Work, find_offers

NOTE = (
    "networks and reading alone; not in it: the head, nodes that start (image, "
    "weights), what the bucket takes, tissue and stitching"
)


def work_of(
    measured: Calibration, *, patches: int, read_px: float, memory_bytes: float
) -> Work:
    """What a cohort asks for, from what was measured.

    Args:
        measured: by ``digipath calibrate``.
        patches: of the cohort.
        read_px: network px to read for them.
        memory_bytes: that one process needs, at most.
    """
    predictor, reader = measured.predictor, measured.reader
    return Work(
        network_hours=patches / (predictor.patches_per_s or 1.0) / 3600,
        on_gpu=predictor.gpu is not None,
        reader_hours=read_px / 1e6 / reader.read_mpx_per_s / 3600,
        memory_gb=memory_bytes / 2**30,
    )


def say_reading(work: Work, measured: Calibration) -> str:
    """CPU hours of reading, and the CPUs that keep one GPU busy."""
    rate = measured.reader.read_mpx_per_s
    said = f"{duration(work.reader_hours * 3600)} of one CPU at {rate:.3g} Mpx/s"
    if not work.on_gpu:
        return said
    needed = work.reader_hours / work.network_hours
    return f"{said}: {needed:.1f} CPUs read for one GPU"


def say_hours(work: Work, *, by_hours: float) -> str:
    """Hours of 1, 2, 4 ... devices, up to as many as end in time."""
    said, number = [], 1
    while True:
        hours = work.network_hours / number
        device = "GPU" if work.on_gpu else "CPU"
        said.append(f"{duration(hours * 3600)} on {count(number, device)}")
        if hours <= by_hours:
            return ", ".join(said)
        number *= 2


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


def price(
    types: Sequence[NodeType], work: Work, *, by_hours: float
) -> tuple[list[Offer], str]:
    """The offers that end in time, the cheapest first, and what to say of them."""
    offers = find_offers(types, work, by_hours=by_hours)
    if not offers:
        device = "GPUs, and CPUs to read for them" if work.on_gpu else "CPUs"
        return [], (
            f"no node type of the table has {device}, and {work.memory_gb:.0f} GB of "
            "memory for one process"
        )
    best = offers[0]
    kind = "spot" if best.least != best.price else "on demand"
    return offers, (
        f"cheapest within {by_hours:g} h: {best.nodes} x {best.node.name}, {kind}, "
        f"{best.least:,.2f} in the table's currency ({NOTE})"
    )
