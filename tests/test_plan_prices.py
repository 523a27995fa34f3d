"""What a night costs: a calibration, the user's table, clusters that end in time."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import tomli_w

from digipath_ray.cli import run_app
from digipath_ray.cli.bench import advise, describe
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.distributed import bench
from digipath_ray.distributed.calibrate import (
    kinds_of,
    measure_ensemble,
    measure_reading,
)
from digipath_ray.networks.resolve import resolve
from digipath_ray.patches import keep_cells
from digipath_ray.pipeline.prepare import grid_of
from digipath_ray.planning.prices import (
    NodeType,
    Offer,
    Work,
    find_offers,
    format_hours,
    format_reading,
    read_prices,
    work_of,
)
from digipath_ray.planning.speed import (
    Machine,
    describe_ensemble,
    read_calibration,
)
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import Mask
from tests.runs import RAY_WARNINGS, SMALL, small_config, write_slide

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "cluster" / "prices.toml"
GPU = NodeType(
    name="gpu",
    gpus=1,
    cpus=8,
    memory_gb=64,
    price_per_hour=4.0,
    spot_price_per_hour=1.5,
    relative_speed=1.0,
)
READER = NodeType(
    name="reader",
    gpus=0,
    cpus=8,
    memory_gb=32,
    price_per_hour=0.5,
    spot_price_per_hour=0.125,
    relative_speed=1.0,
)
# 40 hours of one GPU; it leaves 7 CPUs of its node, of which 3.5 keep it busy.
NIGHT = Work(network_hours=40.0, on_gpu=True, reader_hours=140.0, memory_gb=20.0)


# Offers.


def test_a_gpus_own_cpus_read_for_it() -> None:
    (offer,) = find_offers([GPU], NIGHT, by_hours=10)
    # 40 GPU hours in 10: 4 nodes; 28 CPUs read 280 hours' worth in that time.
    assert offer == Offer(
        node=GPU,
        nodes=4,
        reader=None,
        readers=0,
        hours=10.0,
        price=160.0,
        spot_price=60.0,
    )


def test_slow_reading_is_bought_where_it_is_cheapest() -> None:
    slow = replace(NIGHT, reader_hours=600.0)
    # With their own CPUs alone: 600 / 7 hours of one node, so 9 nodes for 600 / 63 h.
    (alone,) = find_offers([GPU], slow, by_hours=10)
    assert (alone.nodes, alone.hours) == (9, pytest.approx(600 / 63))
    assert alone.price == pytest.approx(9 * 4.0 * 600 / 63)
    # 60 CPUs for 10 hours: 28 are there, 32 are 4 nodes of readers.
    (beside,) = find_offers([GPU, READER], slow, by_hours=10)
    assert (beside.nodes, beside.readers, beside.hours) == (4, 4, 10.0)
    assert beside.price == 10 * (4 * 4.0 + 4 * 0.5)
    assert beside.spot_price == 10 * (4 * 1.5 + 4 * 0.125)


def test_the_cheapest_comes_first_whatever_its_speed() -> None:
    fast = replace(GPU, name="fast", relative_speed=3.0, price_per_hour=16.0)
    fast = replace(fast, spot_price_per_hour=None)
    offers = find_offers([fast, GPU], replace(NIGHT, reader_hours=70.0), by_hours=10)
    assert [o.node.name for o in offers] == ["gpu", "fast"]
    # 13.3 hours of a fast one: two of them for 6.7 hours.
    assert (offers[1].nodes, offers[1].hours) == (2, pytest.approx(40 / 6))
    assert offers[1].spot_price is None
    assert offers[1].least == offers[1].price == pytest.approx(2 * 16 * 40 / 6)


def test_a_node_too_small_to_stitch_is_no_offer() -> None:
    large = replace(NIGHT, memory_gb=65.0)
    assert find_offers([GPU], large, by_hours=10) == []
    # A reader too small does not read either.
    slow = replace(NIGHT, reader_hours=600.0, memory_gb=40.0)
    (offer,) = find_offers([GPU, READER], slow, by_hours=10)
    assert offer.reader is None


def test_a_gpu_without_cpus_to_spare_needs_readers() -> None:
    bare = replace(GPU, cpus=1)
    assert find_offers([bare], NIGHT, by_hours=10) == []
    (offer,) = find_offers([bare, READER], NIGHT, by_hours=10)
    assert (offer.nodes, offer.readers) == (4, 2)  # 14 CPUs for 10 hours


def test_a_night_on_cpus_reads_and_predicts_on_the_same() -> None:
    work = Work(network_hours=140.0, on_gpu=False, reader_hours=20.0, memory_gb=1.0)
    (offer,) = find_offers([GPU, READER], work, by_hours=10)
    assert (offer.node.name, offer.nodes, offer.hours) == ("reader", 2, 10.0)
    assert offer.price == 2 * 10 * 0.5


def test_hours_of_more_and_more_gpus() -> None:
    assert format_hours(NIGHT, by_hours=10) == (
        "40.0 h on 1 GPU, 20.0 h on 2 GPUs, 10.0 h on 4 GPUs"
    )


# The table.


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps({"nodes": list(rows)}))
    return path


def row_of(node: NodeType, **changes: Any) -> dict[str, Any]:
    row = {**vars(node), **changes}
    return {name: value for name, value in row.items() if value is not None}


def test_a_table_is_read(tmp_path: Path) -> None:
    spotless = replace(READER, spot_price_per_hour=None)
    path = table(tmp_path / "p.toml", row_of(GPU), row_of(spotless))
    assert read_prices(path) == [GPU, spotless]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"price_per_hour": 0.0},
            "gpu: price_per_hour = 0 is a placeholder: fill in your own",
        ),
        ({"spot_price_per_hour": 0.0}, "gpu: spot_price_per_hour = 0 is a placeholder"),
        ({"relative_speed": 0.0}, "gpu: relative_speed = 0 is a placeholder"),
        (
            {"price_per_hour": -1.0},
            "gpu: price_per_hour = -1.0: must be a positive number",
        ),
        (
            {"price_per_hour": "4"},
            "gpu: price_per_hour = '4': must be a positive number",
        ),
        ({"cpus": 0}, "gpu: cpus = 0: must be at least 1"),
        ({"gpus": -1}, "gpu: gpus = -1: must be at least 0"),
        ({"price": 4.0}, "gpu: unknown column price"),
        ({"memory_gb": None}, "gpu: lacks memory_gb"),
    ],
)
def test_what_a_table_may_not_say(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = table(tmp_path / "p.toml", row_of(GPU, **changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prices(path)


@pytest.mark.parametrize("text", ["", "nodes = 1", "[[nodes", "currency = 'EUR'"])
def test_what_is_no_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"p\.toml: (not valid TOML|must contain only \[\[nodes\]\])"
    ):
        read_prices(path)


def test_the_projects_table_holds_gaps_alone_and_serves_once_filled_in(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="is a placeholder: fill in your own"):
        read_prices(TABLE)
    text = TABLE.read_text()
    gaps = re.findall(r"^(\w+) = 0\.0 # FILL IN$", text, re.MULTILINE)
    rows = text.count("[[nodes]]")
    named = ("price_per_hour", "spot_price_per_hour", "relative_speed")
    assert sorted(gaps) == sorted(named * rows)
    filled = tmp_path / "filled.toml"
    filled.write_text(text.replace("= 0.0 # FILL IN", "= 1.0"))
    assert [node.gpus for node in read_prices(filled)] == [0, 1, 0, 1]


# The calibration.


def machine(**changes: Any) -> Machine:
    said: dict[str, Any] = {
        "node": "n",
        "gpu": None,
        "gpus": 0,
        "cpus": 8,
        "memory_gb": 32.0,
        "patches_per_s": None,
        "read_mpx_per_s": 100.0,
        "versions": {},
    }
    return Machine(**{**said, **changes})


def calibration_of(path: Path, config: Any, *machines: Machine) -> Path:
    said = {
        "made": "2026-11-23T00:00:00+00:00",
        "work": describe_ensemble(config),
        "read_from": "a slide",
        "machines": [vars(m) for m in machines],
    }
    path.write_text(json.dumps(said))
    return path


def test_networks_count_where_they_are_fastest_and_reading_where_it_is_slowest(
    tmp_path: Path,
) -> None:
    config = small_config()
    path = calibration_of(
        tmp_path / "c.json",
        config,
        machine(node="reader", read_mpx_per_s=50.0),
        machine(node="a", gpu="A", gpus=1, patches_per_s=20.0, read_mpx_per_s=40.0),
        machine(node="b", gpu="B", gpus=1, patches_per_s=30.0),
    )
    found = read_calibration(path, config)
    assert (found.predictor.node, found.reader.node) == ("b", "reader")
    work = work_of(found, patches=1_080_000, read_px=3.6e11, memory_bytes=2.0**31)
    # 1,080,000 / 30 / 3600 hours, 360,000 Mpx / 50 / 3600 hours.
    assert work == Work(
        network_hours=10.0, on_gpu=True, reader_hours=2.0, memory_gb=2.0
    )
    assert format_reading(work, found) == (
        "2.0 h of one CPU at 50 Mpx/s: 0.2 reading CPUs per GPU"
    )


def test_a_calibration_is_of_the_runs_own_networks(tmp_path: Path) -> None:
    config = small_config()
    path = calibration_of(tmp_path / "c.json", config, machine(patches_per_s=1.0))
    other = small_config({"ensemble": {"tta": ["identity"]}})
    with pytest.raises(ValueError, match=r"other settings \(transforms: 2, not 1"):
        read_calibration(path, other)
    for text in ("", "[]", "{}", '{"machines": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a calibration"):
            read_calibration(path, config)


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "NodeID": "n", "Resources": resources}


def test_one_node_of_each_kind_is_measured() -> None:
    gpu = {"CPU": 1.0, "GPU": 1.0}
    cluster = [
        node(memory=1.0),  # a head without work
        node(CPU=8.0),
        node(CPU=8.0),
        {**node(CPU=96.0), "Alive": False},
        node(**gpu, **{"accelerator_type:A": 1.0}),
        node(**gpu, **{"accelerator_type:B": 1.0}),
        node(**gpu, **{"accelerator_type:B": 1.0}),
    ]
    assert kinds_of(cluster) == [cluster[1], cluster[4], cluster[5]]
    with pytest.raises(ValueError, match="no node of the cluster has CPUs"):
        kinds_of(cluster[:1])


@pytest.mark.slow
def test_reading_is_measured_on_a_drawn_slide_and_on_ones_own(tmp_path: Path) -> None:
    config = small_config({"tissue": {"mask_mpp": 8.0, "min_tissue_mm2": 0.001}})
    drawn = measure_reading(None, config, seconds=0.3)
    slide = str(write_slide(tmp_path / "a.tif", width=600, height=500))
    own = measure_reading(slide, config, seconds=0.3)
    assert 1 < drawn < 5000
    assert 1 < own < 5000


def test_a_cpu_is_given_one_transform_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def rate(config: Any, *, device: str, seconds: float) -> float:
        seen.append((config.ensemble.tta, config.compute.batch_size, device))
        return 12.0

    monkeypatch.setattr("digipath_ray.distributed.calibrate.measure_rate", rate)
    assert measure_ensemble(small_config(), on_gpu=False) == 6.0
    assert measure_ensemble(small_config(), on_gpu=True) == 12.0
    assert seen == [
        (("identity",), 4, "cpu"),
        (("identity", "hflip"), 4, "cuda"),
    ]


# The commands.


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    deep = {"architecture": "Unet", "encoder": "resnet18", "weights": "random"}
    members = [{**m, **deep} for m in SMALL["members"]]
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps({**SMALL, "members": members}))
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_night_is_calibrated_and_priced(
    ray_here: None,
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "node.json"
    options = ["--config", str(config_file)]
    assert run_app(["calibrate", "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "measuring Unet/resnet18, Unet/resnet18 x 2 transforms" in said
    (measured,) = json.loads(out.read_text())["machines"]
    assert measured["patches_per_s"] > 0.1
    assert measured["read_mpx_per_s"] > 1
    assert measured["cpus"] == ray.cluster_resources()["CPU"]
    assert measured["gpu"] is None
    assert measured["versions"]["ray"] == ray.__version__

    slide = str(write_slide(tmp_path / "a.tif"))
    prices = table(tmp_path / "prices.toml", row_of(READER))
    command = ["plan", slide, *options, "--out", str(tmp_path)]
    priced = [*command, "--calibration", str(out), "--prices", str(prices)]
    assert run_app(priced) == 0
    said = capsys.readouterr().out
    assert "1 x reader" in said
    assert re.search(r"price +cheapest within 10 h: 1 x reader, spot, 0\.00 in ", said)
    assert re.search(r"hours +\d+ s on 1 CPU\n", said)
    assert run_app([*command, "--calibration", str(out), "--rate", "1"]) == 2
    assert "omit --rate" in capsys.readouterr().err

    monkeypatch.setattr(bench, "BARE_S", 0.5)
    monkeypatch.setattr(bench, "RUN_S", 1.0)
    assert run_app(["bench", "--out", str(tmp_path / "b"), *options]) == 0
    said = capsys.readouterr().out
    for name in ("networks", "run", "reading", "disk", "store", "next"):
        assert re.search(rf"^{name} +\S", said, re.MULTILINE)
    assert "H100" not in said, "other networks than the paper's"
    # What was drawn and run to measure is gone.
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["bench.json"]
    (found,) = json.loads((tmp_path / "b" / "bench.json").read_text())["machines"]
    figures = found["bench"]
    assert found["patches_per_s"] == pytest.approx(
        figures["run"] / figures["devices"], rel=1e-3
    )
    assert figures["patches"] >= 4
    planned = [*command, "--calibration", str(tmp_path / "b" / "bench.json")]
    assert run_app(planned) == 0
    assert re.search(r"hours +\d+ s on 1 CPU\n", capsys.readouterr().out)


@pytest.mark.parametrize("patches", [1, 60, 5000])
def test_slides_to_measure_with_have_the_patches_asked_for(
    patches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SLIDE_PX", 1024)
    config = small_config({"tissue": {"tissue": "all"}})
    folder = bench.draw_slides(tmp_path / "s", config, patches=patches)
    rows = read_cohort([folder])
    found = 0
    for row in rows:
        with open_slide(row.path) as slide:
            grid = grid_of(slide, config)
            mask = Mask(array=np.ones((64, 64), bool), mpp_x=32.0, mpp_y=32.0)
            found += len(keep_cells(grid, mask))
    assert max(4, patches) <= found <= max(30, 1.6 * patches)
    assert len(rows) == (1 if patches < 1000 else 6)


def test_what_a_bench_advises() -> None:
    fast = {
        "devices": 1.0,
        "bare": 100.0,
        "run": 96.0,
        "patches": 3000,
        "start_s": 9.0,
        "bottleneck": "read: the networks waited for pixels",
        "read_mpx": 200.0,
        "needed_mpx": 26.0,
        "disk_write_mb": 500.0,
        "disk_read_mb": 900.0,
        "store_mb": 800.0,
    }
    node = machine(gpu="H100", gpus=1, cpus=8)
    assert "more GPUs" in advise(bench.Bench(**fast), node)
    slow = bench.Bench(**{**fast, "run": 50.0})
    assert (slow.of_bare, slow.reading_cpus) == (0.5, 0.13)
    assert advise(slow, node) == "read: the networks waited for pixels"
    starved = bench.Bench(**{**fast, "needed_mpx": 2000.0})
    assert "more CPUs for each GPU" in advise(starved, node)
    lines = [text for name, text in describe(slow, node, resolve({}, weights="random"))]
    assert "50.0/s, 50% of the networks alone, over 3,000 patches" in lines[2]
    assert any("H100" in text and "71.0/s" in text for text in lines)


def test_prices_ask_for_a_calibration_and_gaps_are_refused_at_once(
    tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = str(write_slide(tmp_path / "a.tif"))
    command = ["plan", slide, "--config", str(config_file), "--prices", str(TABLE)]
    assert run_app(command) == 2
    assert "digipath calibrate --out node.json" in capsys.readouterr().err
    path = calibration_of(
        tmp_path / "c.json", small_config(), machine(patches_per_s=1.0)
    )
    assert run_app([*command, "--calibration", str(path)]) == 2
    assert "price_per_hour = 0 is a placeholder" in capsys.readouterr().err
