"""The nodes of a cluster: how many there are, and whether all see the run directory."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.storage.files import is_url

HEAD = "node:__internal_head__"
LOOK_S = 15.0
"""How long a node looks for a file: NFS shows a new one within seconds."""
WAIT_S = 90.0
"""How long all nodes are waited for; one that does not answer may be about to go."""


def has_several_nodes(have: Mapping[str, float]) -> bool:
    """Whether this is a cluster: nodes beside the head, or a head that does no work.

    Args:
        have: its resources. Each node has one named ``node:`` and its address.
    """
    named = [name for name in have if name.startswith("node:") and name != HEAD]
    nodes = sum(have[name] for name in named)
    return nodes > 1 or (nodes == 1 and "CPU" not in have)


def check_all_see(run: RunDirectory) -> None:
    """Refuse a run directory that only some nodes see.

    Raises:
        RunError: naming nodes that do not see it, and what to do.
    """
    if is_url(run.root) or not has_several_nodes(ray.cluster_resources()):
        return
    sign = run.root / f"seen-{uuid.uuid4().hex}"
    sign.touch()
    try:
        blind = find_blind(sign)
    finally:
        sign.unlink(missing_ok=True)
    if blind:
        raise RunError(
            f"{run.root} is not seen by {len(blind)} of the cluster's nodes "
            f"({', '.join(sorted(blind)[:3])}): choose an --out on a path that all "
            "nodes share, or in a bucket (s3://BUCKET/run)"
        )


def find_blind(sign: Path) -> list[str]:
    """Addresses of nodes on which tasks run and this file is not visible."""
    look = ray.remote(num_cpus=0, max_retries=0)(sees)
    asked = {
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            )
        ).remote(str(sign)): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=WAIT_S)
    return [asked[ref] for ref in answered if not _visible(ref)]


def sees(path: str) -> bool:
    """Whether a file is there, now or within a while."""
    end = time.monotonic() + LOOK_S
    while not Path(path).exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def _visible(ref: ray.ObjectRef) -> bool:
    """What a node says; one that has gone meanwhile does not matter."""
    try:
        return bool(ray.get(ref))
    except ray.exceptions.RayError:
        return True
