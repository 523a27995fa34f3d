"""What a run settles before it starts, without Ray."""

import socket
from dataclasses import replace

import pytest

from digipath_ray.config import RunConfig
from digipath_ray.distributed.cluster import Share, connect
from digipath_ray.distributed.night import bottleneck, settle_precision
from digipath_ray.rundir import RunError

CPU = Share(
    actors=1,
    actor_cpus=1.0,
    actor_gpus=0.0,
    actor_threads=1,
    readers=1,
    reader_cpus=0.5,
    finish_cpus=0.25,
)


def test_auto_precision_is_settled_by_what_the_networks_run_on() -> None:
    on_cpu = settle_precision(RunConfig(), CPU, {})
    on_gpu = settle_precision(RunConfig(), replace(CPU, actor_gpus=1.0), {})
    assert on_cpu.compute.precision == "float32"
    assert on_gpu.compute.precision == "float16"


def test_one_run_is_of_one_precision() -> None:
    done = {"s": {"precision": "float32"}}
    assert settle_precision(RunConfig(), CPU, done).compute.precision == "float32"
    with pytest.raises(RunError, match="give --precision float32, or another --out"):
        settle_precision(RunConfig(), replace(CPU, actor_gpus=1.0), done)


def test_address_where_nobody_listens_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"no Ray head answers at RAY_ADDRESS={address}"):
        connect()


@pytest.mark.parametrize(
    ("busy", "wait", "word"),
    [
        ((0.1, 0.95), 0.0, "predict"),
        ((0.9, 0.3), 0.0, "read"),
        ((0.1, 0.3), 0.0, "neither"),
        ((0.1, 0.95), 0.4, "finish"),
    ],
)
def test_bottleneck_names_the_stage_to_widen(
    busy: tuple[float, float], wait: float, word: str
) -> None:
    assert bottleneck(*busy, finish_wait=wait).startswith(f"{word}:")
