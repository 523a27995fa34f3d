"""What a test's nodes do, noted in a diary; light to import, as every worker does.

Only the stage of networks lies elsewhere: it needs torch, which takes seconds.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from digipath_ray.distributed import collector
from digipath_ray.distributed.read import Batch, read_shard

NAME = "NODE_OF_A_TEST"


class Diary:
    """What was done where, in the order in which it was told, and at which pace."""

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, seconds: float) -> None:
        """An empty diary; a chunk takes at least so long."""
        self.seconds = seconds
        self.notes: list[tuple[float, str, str, str, int]] = []

    def pace(self) -> float:
        return self.seconds

    def note(self, node: str, what: str, slide_id: str, chunk: int) -> None:
        self.notes.append((time.time(), node, what, slide_id, chunk))

    def read(self) -> list[tuple[float, str, str, str, int]]:
        return self.notes


def open_diary() -> Any:
    """The diary, on the head: that has no CPU, so it asks for none."""
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    options = {"num_cpus": 0, "name": "diary", "scheduling_strategy": here}
    return ray.remote(Diary).options(**options).remote()


def diary() -> Any:
    return ray.get_actor("diary", namespace="test")


def pace() -> float:
    """Seconds that a chunk takes at least in the run of now."""
    return float(ray.get(diary().pace.remote()))


def note(what: str, slide_id: str, chunk: int = -1) -> None:
    diary().note.remote(os.environ.get(NAME, "head"), what, slide_id, chunk)


def noted_read(batch: Batch, **options: Any) -> Iterator[Batch]:
    for row in read_shard(batch, **options):
        time.sleep(pace() / 2)
        note("read", str(row["slide_id"][0]), int(row["chunk"][0]))
        yield row


finish = collector.try_finish


def noted_finish(root: str, prepared: Any, *rest: Any) -> Any:
    note("finish", prepared.slide_id)
    time.sleep(pace())
    answer = finish(root, prepared, *rest)
    note("finished", prepared.slide_id)
    return answer
