"""``digipath bench``: how well this machine does, and what it waits for."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree
from digipath_ray.distributed.bench import Bench, machine_of, measure_bench
from digipath_ray.distributed.calibrate import cluster_nodes, kinds_of
from digipath_ray.distributed.connect import connected
from digipath_ray.networks.resolve import resolve
from digipath_ray.planning.speed import (
    Machine,
    describe_ensemble,
    format_ensemble,
    write_calibration,
)
from digipath_ray.storage.files import is_url, place
from digipath_ray.words import count, format_duration, format_rate

BENCH = "bench.json"
GOOD = 0.9
"""A run that has this share of the networks' own rate leaves little to gain."""
KNOWN = (
    ("one H100 80 GB, float32", 20.3),
    ("one H100 80 GB, float16", 71.0),
    ("one H100 80 GB, float16, compiled and frozen", 113.0),
)
"""Patches/s of the paper's three networks alone, patches of 1024 px and one transform,
batch 8. Measured once in November 2026 with plain torch 2.11, not with this package,
whose own figures of a GPU are still to come (docs/gpu.md)."""
PAPER = ["DeepLabV3Plus/tu-xception65", "Unet/densenet121", "Unet/inceptionresnetv2"]


def bench(
    console: Console,
    out: Path,
    tree: Tree,
    *,
    weights: str | None,
    force: bool,
    slide: str | None,
) -> int:
    """Measure, print and write what this machine does; 0.

    Args:
        console: to print to.
        out: folder where runs would be written.
        tree: the settings given.
        weights: as of a run; speed does not depend on them.
        force: as of a run.
        slide: what to read, a path that all nodes see; None reads what is drawn.

    Raises:
        ValueError: the nodes of the cluster are not alike.
    """
    config = resolve(tree, weights=weights or "random", force=force)
    if slide is not None and is_url(slide):
        slide = str(place(slide))
    out.mkdir(parents=True, exist_ok=True)
    with connected(config.compute.cpus):
        kinds = kinds_of(cluster_nodes())
        if len(kinds) > 1:
            raise ValueError(
                f"the cluster has {len(kinds)} kinds of nodes, whose rates cannot be "
                "told apart in one run: digipath calibrate measures each of them"
            )
        work = escape(format_ensemble(describe_ensemble(config)))
        console.print(f"measuring {work}; two minutes, on slow CPUs more ...")
        found = measure_bench(config, out, slide)
        machine = machine_of(found, kinds[0])
    for name, text in describe(found, machine, config):
        console.print(f"{name:<12}{escape(text)}")
    path = out / BENCH
    write_calibration(path, config, [machine], slide=slide)
    console.print(
        f"written to {escape(str(path))}: digipath plan --calibration reads it"
    )
    return 0


def describe(
    found: Bench, machine: Machine, config: RunConfig
) -> Iterator[tuple[str, str]]:
    """Lines of name and text: what was measured, what to do, what others have."""
    on = machine.gpu or "CPU"
    yield "machine", f"{found.devices:g} x {on}, {count(machine.cpus, 'CPU')} per node"
    yield "networks", f"{format_rate(found.bare)} alone"
    yield (
        "run",
        f"{format_rate(found.run)}, {found.of_bare:.0%} of the networks alone, over "
        f"{count(found.patches, 'patch')}; started in {format_duration(found.start_s)}",
    )
    yield (
        "reading",
        f"{found.read_mpx:.0f} Mpx/s per CPU: the networks need "
        f"{found.reading_cpus / found.devices:.2g} CPUs for each "
        f"{'CPU' if machine.gpu is None else 'GPU'} of theirs",
    )
    yield (
        "disk",
        f"writes {found.disk_write_mb:,.0f} MB/s, reads {found.disk_read_mb:,.0f} MB/s",
    )
    yield "store", f"{found.store_mb:,.0f} MB/s from process to process"
    yield "next", advise(found, machine)
    if describe_ensemble(config)["networks"] == PAPER and config.grid.patch_px == 1024:
        each = len(config.ensemble.tta)
        for name, rate in KNOWN:
            yield "known", f"{format_rate(rate / each)}: {name}, networks alone"


def advise(found: Bench, machine: Machine) -> str:
    """What would make a run faster, in words."""
    # Of all nodes, which are alike, this one's share.
    devices = machine.gpus or machine.cpus
    if found.reading_cpus * devices / found.devices > machine.cpus:
        return (
            "reading: use nodes with more CPUs for each GPU, or add nodes without GPU "
            "to the cluster"
        )
    if found.of_bare < GOOD:
        return found.bottleneck
    if machine.gpu is None:
        return "the networks are all that counts: a GPU is many times faster"
    return "the networks are all that counts: more GPUs, --overlap adaptive, --cascade"
