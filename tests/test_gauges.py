"""What a run counts: that Prometheus gets it and the dashboard shows all of it."""

import itertools
import json
import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import ray

from digipath_ray.distributed import prometheus as gauges
from digipath_ray.distributed.run import run_cohort
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import open_slide
from digipath_ray.storage.files import publish
from tests.runs import RAY_WARNINGS, hears, small_config, write_cohort, write_slide

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "cluster" / "grafana.json"
SAMPLE = re.compile(r"^(ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
EXPORTED = {f"ray_{name}_total" for name in gauges.COUNTERS} | {
    f"ray_{name}" for name in gauges.GAUGES
}
REPORTED_S = 5
"""Seconds within which Ray has reported what was counted: here it does every 2 s."""


def scrape() -> Counter[tuple[str, str]]:
    """What Prometheus would get of this node: (metric, stage or step) -> sum."""
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        text = page.read().decode()
    found: Counter[tuple[str, str]] = Counter()
    for name, labels, value in SAMPLE.findall(text):
        of = re.search(r'(?:stage|step|operator)="([^"]*)"', labels)
        found[name, of[1] if of else ""] += float(value)
    return found


def scrape_until(
    wanted: dict[tuple[str, str], float], before: Counter[tuple[str, str]]
) -> Counter[tuple[str, str]]:
    """What was added once all that is wanted has come."""
    until = time.monotonic() + 60
    while True:
        now = scrape()
        added = Counter({key: now[key] - before[key] for key in now})
        if all(added[key] >= value for key, value in wanted.items()):
            return added
        assert time.monotonic() < until, {key: added[key] for key in wanted}
        time.sleep(1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_prometheus_gets_what_a_run_counts(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_cohort(tmp_path / "cohort", 3, width=130, height=110)
    (tmp_path / "cohort" / "s02.tif").write_bytes(b"II*\0 and nothing more")
    seen: set[tuple[str, str]] = set()
    next_look = itertools.count()

    def look(*_: object) -> None:
        if next(next_look) > 0:
            return
        # Ray Data tells of its queues every few seconds; after the run they are gone.
        until = time.monotonic() + 60
        while time.monotonic() < until and not queues_in(seen):
            time.sleep(1)
            seen.update(scrape())
        time.sleep(REPORTED_S)
        seen.update(scrape())

    time.sleep(REPORTED_S)  # what the run of an earlier test counted is to be in it
    before = scrape()
    summary = run_cohort(
        RunDirectory(tmp_path / "run"),
        rows,
        small_config(),
        listener=hears(tallied=look),
    )
    patches = summary.metrics["patches"]
    added = scrape_until(
        {
            ("ray_digipath_slides_done_total", ""): 2,
            ("ray_digipath_slides_failed_total", "prepare"): 1,
            ("ray_digipath_patches_total", "read"): patches,
            ("ray_digipath_patches_total", "predict"): patches,
        },
        before,
    )
    assert added["ray_digipath_slides_done_total", ""] == 2
    assert added["ray_digipath_slides_failed_total", "prepare"] == 1
    for stage in ("read", "predict"):
        assert added["ray_digipath_patches_total", stage] == patches
        busy = added["ray_digipath_busy_seconds_total", stage]
        assert busy == pytest.approx(summary.metrics[stage]["seconds"], rel=0.05)
    decoded = 3e6 * summary.metrics["read"]["mpx_per_s"]
    decoded *= summary.metrics["read"]["seconds"]
    assert added["ray_digipath_decoded_bytes_total", ""] == pytest.approx(decoded)
    names = {name for name, _ in seen}
    shown = {f"ray_{name}" for name in gauges.GAUGES}
    assert shown - names == {"ray_digipath_gpu_memory_bytes"}  # there is no GPU
    pattern = re.compile(operator_of_dashboard())
    assert any(pattern.fullmatch(of) for of in queues_in(seen)), seen


def queues_in(seen: set[tuple[str, str]]) -> list[str]:
    """Operators of whose queues Prometheus was told."""
    return [of for name, of in seen if name == "ray_data_operator_queued_blocks"]


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_gets_what_comes_from_a_bucket(
    ray_here: None,
    bucket_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    local = write_slide(tmp_path / "s.tif")
    url = f"{bucket_url}/s.tif"
    with publish(RunDirectory(url).root) as path:
        path.write_bytes(local.read_bytes())
    before = scrape()
    for where in (url, url, url, str(local)):  # one is fetched, two lie there
        with open_slide(where) as slide:
            gauges.count_opened(slide)
    wanted = {
        ("ray_digipath_cache_misses_total", ""): 1.0,
        ("ray_digipath_cache_hits_total", ""): 2.0,
        ("ray_digipath_fetched_bytes_total", ""): float(local.stat().st_size),
    }
    added = scrape_until(wanted, before)
    assert {key: added[key] for key in wanted} == wanted


def test_counting_costs_microseconds_and_nothing_goes_wrong_without_ray() -> None:
    started = time.perf_counter()
    for _ in range(1000):
        gauges.count_read(patches=8, nbytes=1 << 20, seconds=0.1)
        gauges.count("digipath_slides_done", 0)
        gauges.show("digipath_slides_open", 1)
    assert time.perf_counter() - started < 1  # a millisecond each, on any machine


# The dashboard.


def dashboard() -> dict[str, object]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def expressions() -> list[str]:
    return [t["expr"] for panel in dashboard()["panels"] for t in panel["targets"]]


def operator_of_dashboard() -> str:
    (operator,) = re.findall(r'operator=~"([^"]+)"', " ".join(expressions()))
    return operator


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    used = set(re.findall(r"ray_digipath_\w+", " ".join(expressions())))
    assert used == EXPORTED


def test_the_dashboards_labels_are_those_of_the_metrics() -> None:
    labels = {
        **{f"ray_{name}_total": set(of) for name, (_, of) in gauges.COUNTERS.items()},
        **{f"ray_{name}": set(of) for name, (_, of) in gauges.GAUGES.items()},
    }
    for text in expressions():
        for name, said in re.findall(r"(ray_digipath_\w+)\{([^}]*)\}", text):
            asked = set(re.findall(r'(\w+)(?:=|!)[~=]?"', said))
            assert asked - {"SessionName"} <= labels[name]
        for of in re.findall(r"by \((\w+)\)", text):
            (name,) = re.findall(r"ray_digipath_\w+", text)
            assert of == "NodeAddress" or of in labels[name]


def test_counters_are_rated_or_summed_and_gauges_are_not_rated() -> None:
    for text in expressions():
        for name in re.findall(r"rate\((ray_digipath_\w+)", text):
            assert name.endswith("_total")


def test_the_dashboard_is_laid_out() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 41
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    assert sorted(set(ids)) == sorted(ids)
    cells: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        xs = range(at["x"], at["x"] + at["w"])
        cells.update(itertools.product(xs, range(at["y"], at["y"] + at["h"])))
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        assert panel["title"]
        assert panel["description"]
    assert set(cells.values()) == {1}, "panels overlap"


def test_the_data_source_is_the_readers_choice() -> None:
    board = dashboard()
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    sources = [
        *(panel["datasource"] for panel in board["panels"]),
        *(t["datasource"] for panel in board["panels"] for t in panel["targets"]),
        variables["session"]["datasource"],
    ]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    used = set(re.findall(r"\$(\w+)", " ".join(expressions()))) - {"__rate_interval"}
    assert used <= variables.keys()
