"""A cluster of several nodes on this machine, and runs on it: a process of its own.

    python -c "from tests.several_nodes import main; main()" FOLDER

It reads files of a :class:`Plan` from its standard input, one a line, and carries them
out one after the other; what happened is written to the plan's ``report``, then a line
to the standard output. The nodes share nothing but a bucket: each has its own cache,
and a name. What runs where is noted in a diary that an actor on the head keeps. GPUs
are told to Ray, yet the members compute on the CPU: :class:`NotedStage`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.run import MemberSpec
from digipath_ray.distributed import collector, inference
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.read import Batch
from digipath_ray.distributed.resources import Share
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.listeners import Tally
from tests.noted import NAME, note, noted_finish, noted_read, open_diary, pace
from tests.runs import hears, small_config

FAST_TO_NOTICE_A_DEATH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
}


@dataclass(kw_only=True)
class Event:
    """Nodes killed and added once so many slides are finished.

    Attributes:
        slides: so many; with 0 once all is prepared and the plan begins.
        kill: "any" node, or the one that is "finishing" a slide just then; another of
            its kind joins in its place.
        join: names of nodes, whose shape their name tells: see :func:`shape`.
        beside: slides, the first, of another run that begins; its run directory and its
            report have the same names and ``-beside``.
    """

    slides: int
    kill: str = ""
    join: list[str] = field(default_factory=list)
    beside: int = 0


@dataclass(kw_only=True)
class Plan:
    """A run on a cluster, and what befalls it.

    Attributes:
        cohort: URL.
        out: the run directory.
        report: file for what happened.
        folder: for what a second driver is told.
        nodes: at the start, by name; the head beside them has no CPU.
        changes: to the small config.
        seconds: that a chunk takes at least where it is predicted, and half as many
            where it is read.
        events: what happens meanwhile, in this order.
    """

    cohort: str
    out: str
    report: str
    folder: str
    nodes: list[str]
    changes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    events: list[Event] = field(default_factory=list)


def shape(name: str) -> dict[str, float]:
    """What a node has by its name: ``gpu...`` one GPU and a CPU, others two CPUs."""
    return {"num_cpus": 1, "num_gpus": 1} if name.startswith("gpu") else {"num_cpus": 2}


class NotedStage(PredictStage):
    """The product's stage on a logical GPU: it computes on the CPU, and tells of it."""

    def _load(self, members: Sequence[MemberSpec], share: Share) -> EnsemblePredictor:
        return super()._load(members, replace(share, actor_gpus=0.0, actor_threads=1))

    def __call__(self, batch: Batch) -> Batch:
        answer = super().__call__(batch)
        time.sleep(pace())
        note("predict", str(batch["slide_id"][0]), int(batch["chunk"][0]))
        return answer


STARTS = 3
"""Times that a node may be started: beside other work one may take too long."""


class Machine:
    """The cluster; its nodes by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster()
        self.nodes: dict[str, Any] = {}
        self.cluster.add_node(
            num_cpus=0,
            include_dashboard=False,
            include_log_monitor=False,
            _system_config=FAST_TO_NOTICE_A_DEATH,
        )
        ray.init(
            address=self.cluster.address,
            namespace="test",
            log_to_driver=False,
            logging_level="ERROR",
        )

    def become(self, names: Sequence[str]) -> None:
        """Have just these nodes, and nothing in their caches."""
        for name in set(self.nodes) - set(names):
            self.cluster.remove_node(self.nodes.pop(name))
        for cache in self.folder.iterdir():
            shutil.rmtree(cache)
        for name in names:
            if name not in self.nodes:
                self.add(name)

    def add(self, name: str) -> None:
        env = {NAME: name, "DIGIPATH_CACHE": str(self.folder / name)}
        for attempt in range(STARTS):
            try:
                self.nodes[name] = self.cluster.add_node(
                    **shape(name),
                    env_vars=env,
                    object_store_memory=100 << 20,
                    include_log_monitor=False,
                )
            except Exception as e:  # Ray raises just that after 30 s
                if "timed out" not in str(e) or attempt == STARTS - 1:
                    raise
            else:
                return

    def kill(self, name: str) -> None:
        """SIGKILL for the node's raylet; its workers go with it."""
        (raylet,) = self.nodes.pop(name).all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)


class Run(threading.Thread):
    """The run itself, beside the main thread, which alone may add nodes."""

    def __init__(self, plan: Plan, slides: int | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.only = slides
        self.begun = threading.Event()
        self.slides = 0
        self.answer: dict[str, Any] = {}

    def run(self) -> None:
        def count(tally: Tally) -> None:
            self.slides = tally.slides

        rows = read_cohort([self.plan.cohort])[: self.only]
        config = small_config(self.plan.changes)
        grows = replace(config.compute, actors=None)
        started = time.time()
        summary = run_cohort(
            RunDirectory(self.plan.out),
            rows,
            replace(config, compute=grows),
            listener=hears(tallied=count, started=lambda work: self.begun.set()),
        )
        self.answer = {
            "started": started,
            "ended": time.time(),
            "failures": [vars(f) for f in summary.failures],
            "metrics": summary.metrics,
        }


def carry_out(plan: Plan, machine: Machine, diary: Any) -> dict[str, Any]:
    """The run, and what befalls it."""
    machine.become(plan.nodes)
    ray.get(diary.begin.remote(plan.seconds))
    run = Run(plan)
    run.start()
    happened: list[tuple[float, str, str]] = []
    # Ready to go: their imports may take as long as the whole run.
    beside = {
        number: start_beside(plan, machine.cluster.address, event.beside)
        for number, event in enumerate(plan.events)
        if event.beside
    }
    while not run.begun.wait(0.1) and run.is_alive():
        pass
    for number, event in enumerate(plan.events):
        while run.slides < event.slides and run.is_alive():
            time.sleep(0.05)
        joining = list(event.join)
        if event.kill:
            name = random.choice(sorted(machine.nodes))
            if event.kill == "finishing":
                name = finishing(diary)
            machine.kill(name)
            happened.append((time.time(), "kill", name))
            joining.append(f"{name.partition('-')[0]}-new-{number}")
        for name in joining:
            machine.add(name)
            happened.append((time.time(), "join", name))
        if event.beside:
            beside[number].stdin.write(b"go\n")
            beside[number].stdin.flush()
    run.join()
    for other in beside.values():
        other.communicate()
    notes = ray.get(diary.read.remote())
    return {**run.answer, "happened": happened, "notes": notes}


def start_beside(plan: Plan, cluster: str, slides: int) -> Any:
    """Another driver on the cluster, which waits for a line before it begins."""
    path = Path(plan.folder) / "beside.json"
    out, report = f"{plan.out}-beside", f"{plan.report}-beside"
    write_plan(replace(plan, out=out, report=report, events=[]), path)
    script = f"from tests.several_nodes import run_beside; run_beside({slides})"
    env = {**os.environ, "RAY_ADDRESS": cluster}
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE)


def run_beside(slides: int) -> None:
    """A run on the cluster that stands; the process of :func:`start_beside`."""
    plan = read_plan(sys.argv[1])
    stand_in()
    sys.stdin.readline()
    run = Run(plan, slides)
    run.run()
    Path(plan.report).write_text(json.dumps(run.answer))


def read_plan(path: str) -> Plan:
    said = json.loads(Path(path).read_text())
    return Plan(**{**said, "events": [Event(**e) for e in said["events"]]})


def stand_in() -> None:
    """From now on this process lays plans that note what they do."""
    inference.PredictStage = NotedStage  # type: ignore[misc]
    inference.read_shard = noted_read
    collector.try_finish = noted_finish


def finishing(diary: Any) -> str:
    """The node at a finish task just now."""
    for _ in range(2400):
        notes = ray.get(diary.read.remote())
        ended = {slide_id for _, _, what, slide_id, _ in notes if what == "finished"}
        for _, node, what, slide_id, _ in reversed(notes):
            if what == "finish" and slide_id not in ended:
                return str(node)
        time.sleep(0.05)
    raise AssertionError("no slide was being finished for two minutes")


def main() -> None:
    stand_in()
    machine = Machine(Path(sys.argv[1]))
    diary = open_diary()
    for line in sys.stdin:
        plan = read_plan(line.strip())
        Path(plan.report).write_text(json.dumps(carry_out(plan, machine, diary)))
        print("done", flush=True)
    ray.shutdown()
    machine.cluster.shutdown()


def write_plan(plan: Plan, path: Path) -> None:
    path.write_text(json.dumps(asdict(plan)))


def environment() -> dict[str, str]:
    """Ray's files in a folder of their own: no other Ray here joins this cluster."""
    return {**os.environ, "RAY_TMPDIR": tempfile.mkdtemp(prefix="dr", dir="/tmp")}
