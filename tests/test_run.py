"""What a run settles before it starts, without Ray."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from ray.data import DataContext

from digipath_ray.cohort.manifest import SlideRow, read_manifest
from digipath_ray.config.run import (
    TRANSFORMS,
    ComputeSpec,
    EnsembleSpec,
    MemberSpec,
    OutcomeSpec,
    RunConfig,
)
from digipath_ray.config.toml import load_config
from digipath_ray.distributed.connect import connect
from digipath_ray.distributed.ending import patient_notes
from digipath_ray.distributed.inference import plan_context
from digipath_ray.distributed.resources import Share, describe_work
from digipath_ray.distributed.run import settle_precision
from digipath_ray.distributed.throughput import bottleneck, count_ends
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.amended import write_cohort
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from tests.records import done_of

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
    files = tuple(
        MemberSpec(name=name, architecture=name) for name in ("onnx", "exported")
    )
    of_files = settle_precision(
        RunConfig(members=files), replace(CPU, actor_gpus=1.0), {}
    )
    assert of_files.compute.precision == "float32"  # their own
    assert on_cpu.compute.precision == "float32"
    assert on_gpu.compute.precision == "float16"


def test_one_run_is_of_one_precision() -> None:
    done = {"s": done_of(precision="float32")}
    assert settle_precision(RunConfig(), CPU, done).compute.precision == "float32"
    with pytest.raises(RunError, match="give --precision float32, or another --out"):
        settle_precision(RunConfig(), replace(CPU, actor_gpus=1.0), done)


def test_stages_without_patients_are_said() -> None:
    staged = RunConfig(outcome=OutcomeSpec(outcome="stage"))
    nobody, somebody = {"patient_id": None}, {"patient_id": "p"}
    (note,) = patient_notes([nobody, nobody], staged)
    assert "the column patient_id" in note
    assert patient_notes([nobody, somebody], staged) == []
    assert patient_notes([], staged) == []
    assert patient_notes([nobody], RunConfig()) == []


def test_a_run_lists_the_slides_it_was_asked_for(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    a, b = (SlideRow(slide_id=i, path=f"/slides/{i}.tif", node="1") for i in "ab")
    write_cohort(run, [a, b])
    again = replace(b, mpp=0.25)
    write_cohort(run, [again])  # a later start, about b alone
    assert [row for row, _ in read_manifest(run.manifest)] == [a, again]


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


def test_slides_that_failed_before_prediction_count_too() -> None:
    failures = [
        Failure(
            slide_id=f"s{i}",
            path="",
            patient_id=None,
            step=step,
            attempt=1,
            error="",
            hint="",
        )
        for i, step in enumerate(("read", "prepare", "prepare"))
    ]
    assert count_ends(5, failures) == {
        "slides": 5,
        "finished": 2,
        "failed": 3,
        "failed_at": {"prepare": 2, "read": 1},
        "failed_by": {"slide": 3},
        "tried_again": {},
    }


def test_ray_is_not_asked_whether_networks_are_large() -> None:
    before = DataContext.get_current().issue_detectors_config
    usual = before.high_memory_detector_config.detection_time_interval_s
    settings = plan_context(RunConfig()).issue_detectors_config
    assert settings.high_memory_detector_config.detection_time_interval_s == -1
    assert before.high_memory_detector_config.detection_time_interval_s == usual > 0


PAPER = RunConfig(
    members=tuple(
        MemberSpec(name=name, architecture="Unet", weights="random") for name in "abc"
    ),
    ensemble=EnsembleSpec(tta=TRANSFORMS),
    compute=ComputeSpec(batch_size=1, chunk_cells=64),
)


def test_a_slow_run_says_so_at_its_start() -> None:
    share = replace(CPU, actors=2)
    # 3 networks x 6 transforms x 10 s of a core, on two cores.
    assert describe_work(PAPER, share, patches=20) == (
        "3 networks x 6 transforms on 2 CPU cores: expect about 2 min per patch, "
        "30 min in all, if they are as large as the paper's"
    )
    gpus = replace(CPU, actors=4, actor_gpus=1.0)
    said = describe_work(PAPER, gpus, patches=20)
    assert said == "3 networks x 6 transforms on 4 GPUs"
    thirds = replace(CPU, actors=2, actor_gpus=1 / 3)
    pools = replace(PAPER, compute=replace(PAPER.compute, pools="per-member"))
    assert describe_work(pools, thirds, patches=20).endswith(" on 2 GPUs")


def test_the_demos_networks_are_not_slow() -> None:
    config = resolve(load_config(preset="demo"))
    said = describe_work(config, CPU, patches=2000)
    assert said == "3 networks x 2 transforms on 1 CPU core"
