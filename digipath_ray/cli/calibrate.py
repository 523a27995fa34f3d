"""``digipath calibrate``: how fast this machine, or each kind of node, would work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from digipath_ray.config.toml import Tree
from digipath_ray.distributed.calibrate import cluster_nodes, kinds_of, measure_nodes
from digipath_ray.distributed.connect import connected
from digipath_ray.networks.resolve import resolve
from digipath_ray.planning.speed import (
    describe_ensemble,
    format_ensemble,
    format_machine,
    write_calibration,
)
from digipath_ray.storage.files import is_url, place


def calibrate(
    console: Console,
    out: Path,
    tree: Tree,
    *,
    weights: str | None,
    force: bool,
    slide: str | None,
) -> int:
    """Measure, print and write what each kind of node does; 0.

    Args:
        console: to print to.
        out: the JSON file to write.
        tree: the settings given.
        weights: as of a run; speed does not depend on them.
        force: as of a run.
        slide: what to read, a path that all nodes see; None draws one.
    """
    config = resolve(tree, weights=weights or "random", force=force)
    if slide is not None and is_url(slide):
        slide = str(place(slide))
    with connected(config.compute.cpus):
        kinds = kinds_of(cluster_nodes())
        console.print(
            f"measuring {escape(format_ensemble(describe_ensemble(config)))} on "
            f"{', '.join(escape(format_node(kind)) for kind in kinds)} ..."
        )
        machines = measure_nodes(kinds, config, slide)
    write_calibration(out, config, machines, slide=slide)
    for machine in machines:
        console.print(escape(format_machine(machine)))
    console.print(f"written to {escape(str(out))}")
    return 0


def format_node(node: Mapping[str, Any]) -> str:
    """A kind of node in words."""
    have = node["Resources"]
    gpus = f" and {have['GPU']:g} GPUs" if have.get("GPU") else ""
    return f"{have.get('CPU', 0):g} CPUs{gpus}"
