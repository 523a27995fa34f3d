"""Runs on Ray: against a loop in numpy, how they stream, how they share a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.toml import Tree, merge, to_tree
from digipath_ray.context import frame_of_context
from digipath_ray.distributed import inference
from digipath_ray.distributed import read as shard
from digipath_ray.distributed import resources as cluster
from digipath_ray.distributed.collector import Collector
from digipath_ray.distributed.ending import Summary
from digipath_ray.distributed.resources import Share, divide, fit_chunks
from digipath_ray.distributed.run import run_cohort
from digipath_ray.heatmap.canvas import blend_window
from digipath_ray.networks.weights import load_member
from digipath_ray.pipeline.prepare import grid_of
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.listeners import Tally
from digipath_ray.slide.open import open_slide
from digipath_ray.stain.estimate import StainEstimate
from digipath_ray.stain.normalize import MACENKO_TARGET, map_stains, normalize_pixels
from tests.pixels import NUMPY_TURNS
from tests.runs import (
    RAY_WARNINGS,
    SMALL,
    hears,
    heatmaps,
    make_run,
    small_config,
    write_cohort,
    write_slide,
)
from tests.stained import write_stained

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings(RAY_WARNINGS)]

TTA = ["rot90", "hflip"]


CLASSES = {"classes": ["stroma", "tumor", "fat"], "tumor_classes": ["tumor", "fat"]}


def surroundings(name: str, factor: int) -> Tree:
    """A member that sees so much of the context."""
    return {
        "name": name,
        "architecture": "tests.tiny:Around",
        "context_mpp_factor": factor,
        "options": {"factor": factor, "classes": 3},
        **CLASSES,
    }


def of_three(member: Tree) -> Tree:
    """A tiny member that knows three classes."""
    return {**member, "options": {"classes": 3}, **CLASSES}


SHARED = {
    "members": [surroundings("a", 2), of_three(SMALL["members"][1])],
    "ensemble": {"tta": TTA, "keep_members": True, "keep_classes": True},
    "compute": {"chunk_cells": 4, "readers": 3, "pools": "shared"},
}
PER_MEMBER = {
    "slide": {"edge": "reflect", "stain": "macenko"},
    "members": [
        {**m, "stain_reference": [*MACENKO_TARGET.values[:-2], *strengths]}
        for m, strengths in zip(
            (of_three(SMALL["members"][0]), surroundings("b", 4)),
            ([2.0, 1.0], [1.5, 1.2]),
            strict=True,
        )
    ],
    "ensemble": {
        "tta": TTA,
        "keep_members": True,
        "keep_classes": True,
        "blend": "gaussian",
    },
    "compute": {"chunk_cells": 4, "readers": 3, "pools": "per-member"},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native slide, one that is resampled, one smaller than a patch; and one of two
    stains: those of the others are told apart by nothing."""
    folder = tmp_path_factory.mktemp("cohort")
    write_slide(folder / "native.tif", width=150, height=130, seed=0)
    write_slide(folder / "resampled.tif", width=190, height=150, seed=1, mpp=0.8)
    write_slide(folder / "tiny.tif", width=50, height=40, seed=2, glass=0)
    write_stained(folder / "stained.tif", width=150, height=130, seed=3)
    return folder


def shuffle(patch: pytest.MonkeyPatch) -> None:
    """Shards of one chunk, which are read in a random order of all slides' shards."""
    patch.setattr(shard, "CHUNKS_PER_SHARD", 1)
    in_order = inference.shard_table

    def table(*args, **kwargs):
        rows = in_order(*args, **kwargs)
        return rows.take(np.random.default_rng(0).permutation(len(rows)))

    patch.setattr(inference, "shard_table", table)


def naive_posterior(member, views, turn, downsample):
    """A patch [P, P, 3], or with its context, through a member, turned and turned back,
    averaged down: tumor, and each of the three classes, [4, p, p]."""
    apply, undo = NUMPY_TURNS[turn]
    turned = (
        torch.from_numpy(np.ascontiguousarray(apply(view.transpose(2, 0, 1))))[None]
        for view in views
    )
    e = np.exp(member.answers(*turned).numpy()[0].astype(np.float64))
    classes = undo(e / e.sum(0))
    answer = np.stack([classes[1] + classes[2], *classes])
    side = answer.shape[1] // downsample
    return answer.reshape(4, side, downsample, side, downsample).mean((2, 4))


def naive_channels(views, members, config, stains):
    """Equations 4 and 5 of one patch, written with numpy's mean and var.

    ``views``: the patch (1), and its contexts by how many times coarser they are.
    """
    spec, answers = config.ensemble, []
    for member, named in zip(members, config.members, strict=True):
        seen = [views[f] for f in (1, named.context_mpp_factor) if f is not None]
        if stains is not None:
            values = named.stain_reference
            reference = StainEstimate(method="macenko", values=values)
            by = map_stains(stains, reference)
            seen = [normalize_pixels(view, by) for view in seen]
        downsample = config.grid.downsample
        answers.append([naive_posterior(member, seen, t, downsample) for t in spec.tta])
    answers, *classes = np.moveaxis(answers, 2, 0)
    means = answers.mean(axis=1)
    uncertain = [answers.var(axis=1).mean(0), means.var(0)]
    return [means.mean(0), *uncertain, *means, *(c.mean((0, 1)) for c in classes)]


def naive_heatmap(path, cells, config, stains):
    """Channels [8, H, W] and weight [H, W], patch by patch."""
    members = [load_member(m) for m in config.members]
    spec = config.grid
    with open_slide(path) as slide:
        grid = grid_of(slide, config)
        size = spec.patch_px, spec.patch_px
        shape = [
            (n - 1) * spec.hm_stride + spec.hm_patch for n in (grid.rows, grid.cols)
        ]
        total, weight = np.zeros((8, *shape)), np.zeros(shape)
        window = blend_window(spec, config.ensemble.blend)
        for row, col in cells:
            x, y = col * spec.stride_px, row * spec.stride_px
            edge = config.slide.edge
            views = {1: slide.read(grid.frame, x, y, *size, edge=edge)}
            for factor in config.contexts:
                frame = frame_of_context(slide.info, grid.frame, factor)
                # As many px around the same center, each so many model px wide.
                left, top = (
                    int(n + spec.patch_px / 2) / factor - spec.patch_px / 2
                    for n in (x, y)
                )
                corner = int(left), int(top)
                views[factor] = slide.read(frame, *corner, *size, edge=edge)
            top, left = row * spec.hm_stride, col * spec.hm_stride
            here = np.s_[..., top : top + spec.hm_patch, left : left + spec.hm_patch]
            total[here] += (
                np.array(naive_channels(views, members, config, stains)) * window
            )
            weight[here] += window
    inside = np.s_[..., : grid.hm_height, : grid.hm_width]
    total, weight = total[inside], weight[inside]
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight


def run_small(cohort: Path, root: Path, changes, **options) -> Summary:
    run = RunDirectory(root)
    return run_cohort(run, read_cohort([cohort]), small_config(changes), **options)


def run_shuffled(cohort: Path, root: Path, changes) -> Summary:
    with pytest.MonkeyPatch.context() as patch:
        shuffle(patch)
        return run_small(cohort, root, changes)


@pytest.fixture(scope="module")
def shared_run(ray_here, cohort, tmp_path_factory) -> Summary:
    return run_shuffled(cohort, tmp_path_factory.mktemp("shared"), SHARED)


@pytest.fixture(scope="module")
def per_member_run(ray_here, cohort, tmp_path_factory) -> Summary:
    return run_shuffled(cohort, tmp_path_factory.mktemp("per-member"), PER_MEMBER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "changes"), [("shared_run", SHARED), ("per_member_run", PER_MEMBER)]
)
def test_equals_a_loop_over_patches(request, cohort, made, changes):
    summary = request.getfixturevalue(made)
    assert summary.failures == []
    assert summary.metrics["open_slides_max"] > 1  # the shards did come mixed
    found = heatmaps(summary.run)
    assert sorted(found) == ["native", "resampled", "stained", "tiny"]
    for slide_id, heatmap in found.items():
        patches = pq.read_table(summary.run.patches(slide_id))
        cells = zip(*(patches[c].to_pylist() for c in ("row", "col")), strict=True)
        path = cohort / f"{slide_id}.tif"
        stains = summary.run.read_record(slide_id).slide.normalized_from
        assert (stains is not None) == (slide_id == "stained" and "slide" in changes)
        data, weight = naive_heatmap(path, cells, small_config(changes), stains)
        assert heatmap.channels == (
            "probability",
            "aleatoric",
            "epistemic",
            "member:a",
            "member:b",
            "class:stroma",
            "class:tumor",
            "class:fat",
        )
        np.testing.assert_allclose(heatmap.weight, weight, rtol=1e-5)
        # Normalized, a pixel may be a level off (tests/test_stain.py).
        np.testing.assert_allclose(heatmap.data, data, atol=1e-3 if stains else 1e-5)
        assert heatmap.data[:3].max(axis=(1, 2)).min() > 1e-5  # none is all zero
    assert len(pq.read_table(summary.run.patches("tiny"))) == 1


@pytest.mark.slow
def test_overlap_and_cascade_are_those_of_one_process(ray_here, cohort, tmp_path):
    """Members in pools of their own decide as they do side by side."""
    grid = {"grid": {"overlap": "adaptive", "doubt": 0.73}}
    cascade = {"ensemble": {"cascade": True, "keep_members": False}}
    changes = merge(merge(PER_MEMBER, grid), {"compute": {"chunk_cells": 16}})
    changes = merge(changes, cascade)
    summary = run_small(cohort, tmp_path / "run", changes)
    assert 0.3 < summary.metrics["predicted_share"] < 1
    rows = read_cohort([cohort])
    alone = heatmaps(make_run(tmp_path / "alone", rows, small_config(changes)))
    gaps = []
    for slide_id, heatmap in heatmaps(summary.run).items():
        np.testing.assert_array_equal(heatmap.weight, alone[slide_id].weight)
        np.testing.assert_allclose(heatmap.data, alone[slide_id].data, atol=1e-5)
        gaps.append(np.isnan(heatmap.epistemic[heatmap.covered]))
    assert 0 < np.concatenate(gaps).mean() < 1


@pytest.mark.slow
def test_half_precision_is_close_to_single(ray_here, cohort, tmp_path, shared_run):
    changes = {**SHARED, "compute": {**SHARED["compute"], "precision": "bfloat16"}}
    summary = run_small(cohort, tmp_path, changes)
    exact = heatmaps(shared_run.run)
    found = heatmaps(summary.run)
    assert found.keys() == exact.keys() == {"native", "resampled", "stained", "tiny"}
    for slide_id, heatmap in found.items():
        # A member alone is held to nothing: of these, one is off by 0.0013 on average.
        error = np.abs(heatmap.data - exact[slide_id].data)[:3]
        assert 1e-6 < error.max() < 0.01
        assert error.mean(axis=(1, 2)).max() < 0.001


@pytest.mark.slow
def test_slides_are_finished_while_others_are_predicted(
    ray_here, tmp_path, monkeypatch
):
    rows = write_cohort(tmp_path / "cohort", 12, width=150, height=130)
    collectors: list[Collector] = []

    class Kept(Collector):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            collectors.append(self)

    monkeypatch.setattr(inference, "Collector", Kept)
    config = small_config({"ensemble": {"tta": list(NUMPY_TURNS)}})
    run = RunDirectory(tmp_path / "run")
    seen: list[tuple[int, int]] = []

    def note(tally: Tally) -> None:
        held = sum(len(c) for c in collectors[0].open.values())
        seen.append((held, len(collectors[0].finishing)))

    summary = run_cohort(run, rows, config, listener=hears(tallied=note))
    metrics = summary.metrics
    assert metrics["slides"] == 12
    assert metrics["patches_at_first_slide"] < metrics["patches"] / 2
    assert metrics["open_slides_max"] <= 4
    chunks = [s["chunks"] for s in pq.read_table(run.slides).to_pylist()]
    # What the driver holds is a few slides' chunks, not the cohort's.
    assert max(held for held, _ in seen) <= 4 * max(chunks) < sum(chunks)
    assert max(finishing for _, finishing in seen) <= config.compute.finishers
    (collector,) = collectors
    assert collector.open == collector.seconds == collector.waiting == {}
    assert collector.devices == {}
    assert metrics["batch_fill"] > 0.8


@pytest.mark.slow
def test_short_memory_of_a_device_is_said(ray_here, tmp_path, caplog):
    members = [{**m, "options": {"most": 2}} for m in SMALL["members"]]
    rows = write_cohort(tmp_path / "cohort", 1, width=150, height=130)
    run = RunDirectory(tmp_path / "run")
    summary = run_cohort(run, rows, small_config({"members": members}))
    assert summary.failures == []
    assert summary.metrics["batch_reduced_to"] == 2
    (line,) = [r.getMessage() for r in caplog.records if "--batch-size" in r.message]
    assert "batches of 2 in place of 4 patches" in line


ONE_CPU = """
import functools, sys
import ray
from digipath_ray.cli.app import run_app

ray.init = functools.partial(ray.init, num_cpus=1, object_store_memory=200 << 20)
sys.exit(run_app(sys.argv[1:]))
"""


@pytest.mark.slow
def test_one_cpu_is_enough_and_every_line_is_ours(cohort, tmp_path):
    """Ray prints nothing, and the log is of JSON where the environment asks for it."""
    config = small_config({"compute": {"pools": "per-member", "finishers": 4}})
    (tmp_path / "config.toml").write_text(tomli_w.dumps(to_tree(config)))
    command = [sys.executable, "-c", ONE_CPU, "-v", "run", str(cohort / "tiny.tif")]
    command += ["--out", str(tmp_path / "run")]
    command += ["--config", str(tmp_path / "config.toml")]
    done = subprocess.run(
        command,
        env={**os.environ, "DIGIPATH_LOG": "json"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "segment: 1/1 patches" in done.stdout
    assert "(pid=" not in done.stdout, "what its processes print"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(line["logger"].startswith("digipath_ray") for line in lines)
    finished = [x["slide_id"] for x in lines if x["message"].endswith(" finished")]
    assert finished == ["tiny"]


INTERRUPTED = """
import functools, os, signal, sys, ray
from digipath_ray.distributed.connect import connected

ignored = sys.argv[2:] == ["behind &"]
signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
ray.init = functools.partial(ray.init, num_cpus=1, object_store_memory=200 << 20)
try:
    with connected():
        print("running", ray.is_initialized(), flush=True)
        try:
            os.kill(os.getpid(), int(sys.argv[1]))
        finally:
            print("what Ray says of the actors it ends")
            os.write(2, b"and its C++ part")
            os.kill(os.getpid(), int(sys.argv[1]))
except KeyboardInterrupt:
    print("running", ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGTERM, "behind &")],
)
def test_an_interrupt_leaves_ray_without_a_word(
    number: signal.Signals, where: str
) -> None:
    script = [sys.executable, "-c", INTERRUPTED, str(int(number)), where]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        script, capture_output=True, text=True, timeout=100, cwd=root, check=False
    )
    assert (done.stdout, done.stderr) == ("running True\nrunning False\n", "")


DROPPED = """
import functools, os, signal, sys, time, ray
from digipath_ray.distributed import interrupt
from digipath_ray.distributed.connect import connected

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.2)  # Python drops what is raised here

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.unraisablehook = lambda dropped: print("dropped", dropped.exc_type.__name__)
interrupt.INSIST_S = 0.5
ray.init = functools.partial(ray.init, num_cpus=1, object_store_memory=200 << 20)
interrupt.muted = __import__("contextlib").nullcontext
try:
    with connected():
        thing = Finalized()
        del thing
        time.sleep(60)
except KeyboardInterrupt:
    print("running", ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_drops_comes_again(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(int(number))],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.stdout == "dropped KeyboardInterrupt\nrunning False\n", done.stderr


AT_ITS_ENDS = """
import functools, os, signal, sys, ray
from digipath_ray.distributed.connect import connected

def start(**options):
    begin(num_cpus=1, object_store_memory=200 << 20, **options)
    if sys.argv[1] == "first":
        os.kill(os.getpid(), signal.SIGTERM)

begin, ray.init = ray.init, start
try:
    with connected():
        print("running", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "said"), [("first", "interrupted\n"), ("last", "running\ninterrupted\n")]
)
def test_sigterm_before_and_after_the_work_is_an_interrupt(when: str, said: str):
    """Of Ray's handlers one aborts and one exits with 15."""
    done = subprocess.run(
        [sys.executable, "-c", AT_ITS_ENDS, when],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)


RAYLET_KILLED = """
import functools, os, signal, sys, time, psutil, ray
from digipath_ray.cli import app, main
from digipath_ray.distributed.connect import connected

ray.init = functools.partial(ray.init, num_cpus=1, object_store_memory=200 << 20)

@ray.remote
def wait():
    time.sleep(60)

@app.command()
def test():
    with connected():
        waiting = wait.remote()
        (raylet,) = [
            p for p in psutil.Process().children(True) if p.name() == "raylet"
        ]
        raylet.kill()
        try:
            ray.get(waiting) if os.environ["WORK"] == "waits" else time.sleep(60)
        except BaseException:
            if os.environ["WORK"] == "ends slowly":
                time.sleep(60)
            raise

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", ["waits", "sleeps", "ends slowly"])
def test_a_killed_raylet_ends_a_command_with_a_line_and_3(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RAYLET_KILLED, "test"],
        env={**os.environ, "WORK": work},
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Error: Ray's process of this node (raylet) has ended" in done.stderr


NOISY = """
import atexit, sys, threading
from digipath_ray.cli.console import end_process

def print_on():
    while True:
        print("x" * 1000, file=sys.stderr)

atexit.register(lambda: open(sys.argv[1], "a").write("atexit"))
sys.modules["ray"] = sys
for _ in range(8):
    threading.Thread(target=print_on, daemon=True).start()
end_process(130)
"""


def test_a_command_ends_with_its_status_after_what_waits_for_its_end(
    tmp_path: Path,
) -> None:
    """Beside threads that print, as Ray's do."""
    path = tmp_path / "ended"
    done = subprocess.run(
        [sys.executable, "-c", NOISY, str(path)],
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 130
    assert path.read_text() == "atexit"


@pytest.fixture
def fake_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """What Ray says the cluster has."""
    have = {"CPU": 4.0, "object_store_memory": float(8 << 30)}
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: have)
    return have


def asked(share: Share, config) -> tuple[float, float]:
    """CPUs and GPUs that everything together asks of Ray."""
    pools = len(config.members) if config.compute.pools == "per-member" else 1
    cpus = (
        share.actors * pools * share.actor_cpus
        + share.readers * share.reader_cpus
        + config.compute.finishers * share.finish_cpus
    )
    return cpus, share.actors * pools * share.actor_gpus


@pytest.mark.parametrize("pools", ["shared", "per-member"])
@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 96])
@pytest.mark.parametrize(
    "said", [{}, {"readers": 40}, {"finishers": 20}, {"actors": 1, "readers": 3}]
)
def test_a_run_never_asks_for_more_than_there_is(fake_cluster, pools, gpus, cpus, said):
    fake_cluster |= {"CPU": float(cpus), "GPU": float(gpus)}
    members = small_config().members
    for some in (members[:1], members, members * 3):
        spread = spread_config(some, pools=pools, **said)
        share = divide(spread)
        asked_cpus, asked_gpus = asked(share, spread)
        assert asked_cpus <= cpus + 1e-9
        assert asked_gpus <= gpus + 1e-9
        assert min(share.actors, share.readers, share.actor_threads) >= 1
        # Ray Data's own tasks, which split the table of shards, ask for a whole CPU.
        assert cpus - (asked_cpus - share.readers * share.reader_cpus) >= 1 - 1e-9
        # Stages that ask for the same are fused: the actors would read the slides.
        assert share.reader_cpus != share.actor_cpus


def spread_config(members=None, **compute):
    """A config that leaves to ``divide`` what ``compute`` does not say."""
    config = small_config()
    named = [replace(m, name=f"m{i}") for i, m in enumerate(members or config.members)]
    spec = replace(config.compute, **{"actors": None, **compute})
    return replace(config, members=tuple(named), compute=spec)


@pytest.mark.parametrize(
    ("gpus", "compute", "actors", "share_of_gpu"),
    [
        (0, {}, 4, 0.0),
        (1, {}, 1, 1.0),
        (8, {}, 8, 1.0),
        (8, {"pools": "per-member"}, 8, 0.5),
        (2, {"gpus_per_actor": 0.25}, 8, 0.25),
        (2, {"gpus_per_actor": 0.6}, 2, 0.6),  # a share lies on one GPU
        (4, {"gpus_per_actor": 2.0}, 2, 2.0),
        (4, {"actors": 3}, 3, 1.0),
        (4, {"gpus_per_actor": 0.0}, 4, 0.0),
    ],
)
def test_gpus_are_divided(fake_cluster, gpus, compute, actors, share_of_gpu):
    fake_cluster["GPU"] = float(gpus)
    share = divide(spread_config(**compute))
    assert (share.actors, share.actor_gpus) == (actors, share_of_gpu)


def test_actors_that_do_not_fit_are_warned_of(fake_cluster, caplog):
    fake_cluster["GPU"] = 1.0
    divide(spread_config(pools="per-member", gpus_per_actor=1.0))
    assert "2 actors of 1 GPUs each do not fit on the cluster's 1" in caplog.text


def test_networks_and_readers_share_the_cpus(fake_cluster):
    fake_cluster["CPU"] = 16.0
    share = divide(spread_config())
    assert (share.actors, share.actor_threads, share.readers) == (16, 1, 8)
    fake_cluster["memory"] = float(6 << 30)  # room for two actors of 2.5 GB
    share = divide(spread_config())
    assert (share.actors, share.actor_threads, share.readers) == (2, 8, 13)


def test_chunks_shrink_to_what_the_object_store_holds(fake_cluster):
    grid = {"patch_px": 1024, "stride_px": 512}
    config = small_config({"grid": grid, "compute": {"chunk_cells": 64}})
    fake_cluster["GPU"] = 1.0
    assert fit_chunks(config, divide(config)).compute.chunk_cells == 64
    # 2 readers, 1 actor: 8 chunks of at most 2.4 * 512 * 512 * 3 bytes a cell in half
    # of 500 MB leave room for 16 cells; four full batches of 4.
    fake_cluster["object_store_memory"] = 500e6
    assert fit_chunks(config, divide(config)).compute.chunk_cells == 16


def test_chunks_shrink_to_what_a_slow_cpu_reports_in_time(fake_cluster):
    grid = {"patch_px": 1024, "stride_px": 512}
    compute = {"chunk_cells": 64, "batch_size": 1}
    tta = {"tta": ["identity"]}
    config = small_config({"grid": grid, "compute": compute, "ensemble": tta})
    # Two networks at 10 s of a core each: three patches in a minute.
    assert fit_chunks(config, divide(config)).compute.chunk_cells == 3
    fake_cluster["GPU"] = 1.0
    assert fit_chunks(config, divide(config)).compute.chunk_cells == 64
