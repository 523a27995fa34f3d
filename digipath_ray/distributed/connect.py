"""Connecting to Ray, and leaving it."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import ray
import ray.data
from ray._private import ray_constants

from digipath_ray.distributed.interrupt import muted, on_interrupt
from digipath_ray.distributed.nodes import has_several_nodes
from digipath_ray.distributed.start import ENDING, announce_wait, ends_on_signal
from digipath_ray.distributed.surroundings import (
    SHARED_MEMORY,
    STORE_MOST,
    STORE_SHARE,
    find_cluster,
    has_shared_memory,
    look_around,
    ray_folder,
)
from digipath_ray.machine import Allowance, allowance, available_memory, machine_cores
from digipath_ray.run.failure import RunError
from digipath_ray.words import count, size

log = logging.getLogger(__name__)

RAY_ALONE = ("ray.data.exceptions", "ray.data._internal.progress")


BOTH_ASKED = "Specifying both num_cpus and num_gpus"
"""How Ray Data begins to say that it finds this experimental."""


STORE_LEAST = 80 << 20
"""Ray refuses less."""


def connect(cpus: int | None = None) -> bool:
    """Join the cluster that RAY_ADDRESS, a job or this machine has, else start one.

    Args:
        cpus: of this machine, for a Ray that is started here; None is all that this
            process may use (:func:`digipath_ray.machine.allowance`).

    Returns:
        False if this process was in a cluster already; who joined it is to leave it.

    Raises:
        RunError: nothing answers there, or Ray does not start.
    """
    _mute_ray_data()
    if ray.is_initialized():
        return False
    for verdict, what, found in look_around():
        if verdict == "fail":
            raise RunError(found)
        if verdict == "warn":
            log.warning("%s: %s", what, found)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Readers that wait a second for the networks would be ended and started again, all
    # their imports again: Ray keeps no more idle workers than there are CPUs.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    # Ray's C++ part reports an error of Ray's own for every pool (ray issue 57733), and
    # silencing it logs a line of its own.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cluster = find_cluster(os.environ)
    if cluster is None:
        # Nobody takes this machine away: a process less for each member of a fit.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        waits_for = f"Ray to start here (its logs: {ray_folder(os.environ)}/session_*)"
        settings = local_settings(allowance(cpus))
        # Under "uv run" Ray would send the folder, slides and all, to its own machine.
        # It reads the variable that says so when it is imported.
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    else:
        waits_for, settings = f"the Ray head at {cluster.named_by}", {}
    try:
        with announce_wait(waits_for), ends_on_signal(), muted():
            ray.init(
                log_to_driver=False,
                include_dashboard=False,
                logging_level="ERROR",
                **settings,
            )
    except SystemExit as e:  # Ray's own handler of SIGTERM
        raise KeyboardInterrupt from e
    except Exception as e:  # Ray raises just that when its node is slow to start
        raise RunError(f"Ray does not start: {e}") from e
    return True


def local_settings(allowed: Allowance) -> dict[str, Any]:
    """What to tell a Ray of this machine that it does not find out by itself.

    Ray knows the machine and a container's own limits, but neither CPU affinity nor
    the control group of a job.
    """
    settings: dict[str, Any] = {}
    if allowed.cores < machine_cores():
        settings["num_cpus"] = max(1, int(allowed.cores))
    shared = has_shared_memory() or sys.platform != "linux"
    if not shared:
        folder = ray_folder(os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        settings["_plasma_directory"] = str(folder)
    if allowed.memory < psutil.virtual_memory().total or not shared:
        free = min(available_memory(), allowed.memory)
        store = min(STORE_SHARE * free, STORE_MOST)
        if shared and SHARED_MEMORY.is_dir():
            store = min(store, 0.95 * shutil.disk_usage(SHARED_MEMORY).free)
        store = max(store, STORE_LEAST)
        settings["object_store_memory"] = int(store)
        settings["_memory"] = max(int(free - store), 1 << 27)
    return settings


def describe_place(cpus: int | None = None) -> str:
    """What a run has to work with: this machine's part, or the cluster's all."""
    have = ray.cluster_resources()
    if not has_several_nodes(have) and find_cluster(os.environ) is None:
        allowed = allowance(cpus)
        return f"on {allowed}" + (f"; {allowed.note}" if allowed.note else "")
    gpus = int(have.get("GPU", 0))
    text = count(int(have.get("CPU", 0)), "CPU")
    text = f"{text}, {count(gpus, 'GPU')}" if gpus else text
    nodes = sum(node["Alive"] for node in ray.nodes())
    store = size(have.get("object_store_memory", 0))
    return f"on a cluster of {count(nodes, 'node')}, {text}, {store} of object store"


@contextlib.contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """In a cluster as :func:`connect` says; an interrupt leaves it if this joined it.

    SIGTERM, which a scheduler sends, is an interrupt too: Ray's own handler would print
    a trace of its C++ and abort.

    From an interrupt on nothing is printed until the cluster is left: Ray tells, in
    color and on standard output, of every actor that it ends itself.
    """
    joined = connect(cpus)
    with contextlib.ExitStack() as silence, on_interrupt(silence) as interrupts:
        try:
            yield
        except KeyboardInterrupt:
            interrupts.over.set()
            if joined:
                _leave()
            raise


def _leave() -> None:
    """Leave the cluster, and let no second interrupt come between."""
    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        ray.shutdown()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mute_ray_data() -> None:
    """Keep off the terminal what is news to Ray's developers; its log file has it."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Not so: that Ray's bars are off, errors be reported to Ray, and GPUs are new."""
    message = record.getMessage()
    return not (record.name.startswith(RAY_ALONE) or message.startswith(BOTH_ASKED))
