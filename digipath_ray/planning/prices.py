"""Cost of prediction and reading, from a user's table of node types.

Prices are given by the user; none are built in.
"""

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from digipath_ray.config.toml import load_toml
from digipath_ray.planning.speed import Calibration
from digipath_ray.storage.files import read_text
from digipath_ray.words import count, format_duration

DEADLINE_H = 10.0
"""Default time limit, hours."""


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A row of the table.

    Attributes:
        name: the provider's name.
        gpus: in one node.
        cpus: in one node.
        memory_gb: of one node.
        price_per_hour: price of one node on demand, in any currency.
        spot_price_per_hour: price of one preemptible node; None if not available.
        relative_speed: speed of one of its GPUs (CPUs if it has none) relative to the
            calibrated one.
    """

    name: str
    gpus: int
    cpus: int
    memory_gb: float
    price_per_hour: float
    spot_price_per_hour: float | None = None
    relative_speed: float

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ValueError: a number is out of range, or still to be filled in.
        """
        for name in ("gpus", "cpus", "memory_gb"):
            value = getattr(self, name)
            low = 0 if name == "gpus" else 1
            if not isinstance(value, (int, float)) or value < low:
                raise ValueError(
                    f"{self.name}: {name} = {value!r}: must be at least {low}"
                )
        for name in ("price_per_hour", "spot_price_per_hour", "relative_speed"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, (int, float)) or value < 0:
                raise ValueError(
                    f"{self.name}: {name} = {value!r}: must be a positive number"
                )
            if value == 0:
                raise ValueError(
                    f"{self.name}: {name} = 0 is a placeholder: fill in your own, or "
                    "remove the node type"
                )


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of a cohort on the calibrated machines.

    Attributes:
        network_hours: hours of one GPU, or of one CPU without GPUs.
        on_gpu: whether ``network_hours`` are of a GPU.
        reader_hours: hours of one CPU.
        memory_gb: maximum memory of one process.
    """

    network_hours: float
    on_gpu: bool
    reader_hours: float
    memory_gb: float


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A cluster that finishes in time.

    Attributes:
        node: node type for prediction.
        nodes: number of nodes.
        reader: additional node type without GPU for reading; None if not needed.
        readers: number of reader nodes.
        hours: from first to last patch.
        price: on-demand price of these hours.
        spot_price: spot price; None if not available for a node type.
    """

    node: NodeType
    nodes: int
    reader: NodeType | None
    readers: int
    hours: float
    price: float
    spot_price: float | None

    @property
    def least(self) -> float:
        """The lower of the two prices."""
        return (
            self.price if self.spot_price is None else min(self.price, self.spot_price)
        )


def read_prices(path: Path) -> list[NodeType]:
    """Read a table of node types, ``[[nodes]]`` in TOML.

    Raises:
        ValueError: the file is missing, or has an unknown, missing or unfilled column.
    """
    try:
        tree = load_toml(read_text(path))
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    rows = tree.get("nodes")
    if not isinstance(rows, list) or not rows or tree.keys() != {"nodes"}:
        raise ValueError(f"{path}: must contain only [[nodes]], one per node type")
    return [_node_type(path, row) for row in rows]


def _node_type(path: Path, row: dict[str, Any]) -> NodeType:
    known = {f.name for f in fields(NodeType)}
    needed = {f.name for f in fields(NodeType) if f.default is MISSING}
    name = row.get("name", "a node type")
    if unknown := sorted(row.keys() - known):
        raise ValueError(f"{path}: {name}: unknown column {', '.join(unknown)}")
    if missing := sorted(needed - row.keys()):
        raise ValueError(f"{path}: {name}: lacks {', '.join(missing)}")
    try:
        return NodeType(**row)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e


def find_offers(
    types: Sequence[NodeType], work: Work, *, by_hours: float
) -> list[Offer]:
    """Find the fewest nodes of each type that finish in time, cheapest first.

    A type with GPUs reads with the CPUs left by the networks, plus nodes of the
    cheapest type without GPU.
    """
    fit = [t for t in types if t.memory_gb >= work.memory_gb]
    bare = [t for t in fit if t.gpus == 0]
    found = []
    for node in fit:
        if not work.on_gpu and node.gpus == 0:
            found.append(_offer_cpus(node, work, by_hours=by_hours))
        elif work.on_gpu and node.gpus > 0:
            ways = [
                _offer_gpus(node, r, work, by_hours=by_hours) for r in (None, *bare)
            ]
            found += sorted((w for w in ways if w), key=lambda o: o.least)[:1]
    return sorted(found, key=lambda offer: offer.least)


def _offer_cpus(node: NodeType, work: Work, *, by_hours: float) -> Offer:
    """Offer of nodes whose CPUs read and predict."""
    of_one = (work.network_hours + work.reader_hours) / (
        node.cpus * node.relative_speed
    )
    nodes = max(1, math.ceil(of_one / by_hours))
    return _priced(node, nodes, None, 0, of_one / nodes)


def _offer_gpus(
    node: NodeType, reader: NodeType | None, work: Work, *, by_hours: float
) -> Offer | None:
    """Offer of GPU nodes plus readers; None if reading is impossible."""
    of_one = work.network_hours / (node.gpus * node.relative_speed)
    spare = max(0, node.cpus - node.gpus)  # each prediction actor occupies a CPU
    if reader is None:
        if spare == 0:
            return None
        of_one = max(of_one, work.reader_hours / spare)
    nodes = max(1, math.ceil(of_one / by_hours))
    hours = of_one / nodes
    if reader is None:
        return _priced(node, nodes, None, 0, hours)
    missing = max(0.0, work.reader_hours / hours - nodes * spare)
    readers = math.ceil(missing / (reader.cpus * reader.relative_speed))
    return _priced(node, nodes, reader if readers else None, readers, hours)


def _priced(
    node: NodeType, nodes: int, reader: NodeType | None, readers: int, hours: float
) -> Offer:
    hourly = nodes * node.price_per_hour
    spot = node.spot_price_per_hour
    spot = None if spot is None else nodes * spot
    if reader is not None:
        hourly += readers * reader.price_per_hour
        beside = reader.spot_price_per_hour
        spot = None if spot is None or beside is None else spot + readers * beside
    return Offer(
        node=node,
        nodes=nodes,
        reader=reader,
        readers=readers,
        hours=hours,
        price=hours * hourly,
        spot_price=None if spot is None else hours * spot,
    )


NOTE = (
    "prediction and reading only; excludes the head node, node startup (image, "
    "weights), bucket fees, tissue detection and stitching"
)


def work_of(
    measured: Calibration, *, patches: int, read_px: float, memory_bytes: float
) -> Work:
    """Estimate a cohort's work from a calibration.

    Args:
        measured: result of ``digipath calibrate``.
        patches: patches of the cohort.
        read_px: network px to read for them.
        memory_bytes: maximum memory of one process.
    """
    predictor, reader = measured.predictor, measured.reader
    return Work(
        network_hours=patches / (predictor.patches_per_s or 1.0) / 3600,
        on_gpu=predictor.gpu is not None,
        reader_hours=read_px / 1e6 / reader.read_mpx_per_s / 3600,
        memory_gb=memory_bytes / 2**30,
    )


def format_reading(work: Work, measured: Calibration) -> str:
    """Format the CPU hours of reading, and the CPUs per GPU."""
    rate = measured.reader.read_mpx_per_s
    text = f"{format_duration(work.reader_hours * 3600)} of one CPU at {rate:.3g} Mpx/s"
    if not work.on_gpu:
        return text
    needed = work.reader_hours / work.network_hours
    return f"{text}: {needed:.1f} reading CPUs per GPU"


def format_hours(work: Work, *, by_hours: float) -> str:
    """Format the hours of 1, 2, 4 ... devices, until they finish in time."""
    parts, number = [], 1
    while True:
        hours = work.network_hours / number
        device = "GPU" if work.on_gpu else "CPU"
        parts.append(f"{format_duration(hours * 3600)} on {count(number, device)}")
        if hours <= by_hours:
            return ", ".join(parts)
        number *= 2


def price(
    types: Sequence[NodeType], work: Work, *, by_hours: float
) -> tuple[list[Offer], str]:
    """Offers that finish in time, cheapest first, and a summary."""
    offers = find_offers(types, work, by_hours=by_hours)
    if not offers:
        device = "GPUs with CPUs to read for them" if work.on_gpu else "CPUs"
        return [], (
            f"no node type has {device} and {work.memory_gb:.0f} GB of memory per "
            "process"
        )
    best = offers[0]
    kind = "spot" if best.least != best.price else "on demand"
    return offers, (
        f"cheapest within {by_hours:g} h: {best.nodes} x {best.node.name}, {kind}, "
        f"{best.least:,.2f} in the table's currency ({NOTE})"
    )
