"""A run that goes on under the viewer's eyes: what is read again, and what is told."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from digipath_ray.bucket import put
from digipath_ray.rundir import RunDirectory
from digipath_ray.schema import FAILURES
from digipath_ray.viewer.cohort import CohortRoutes
from digipath_ray.viewer.collection import Collection, open_collection
from digipath_ray.viewer.entries import key_of
from digipath_ray.viewer.limits import Limits
from digipath_ray.viewer.live import Seen
from digipath_ray.viewer.service import Service
from tests.finished_runs import Made, failure_of, write_run
from tests.test_viewer_collection import begin_run, data_of, land, says, tell
from tests.viewing import client, viewed_run

if TYPE_CHECKING:
    from tests.buckets import Bucket


def failed(number: int) -> dict[str, str]:
    said = {"step": "read", "error": "cut short", "hint": "copy it"}
    return {"slide_id": f"f{number:03}", **said}


def events_of(seen: Seen, collection: Collection) -> dict[str, Any]:
    """Name -> data of what is told of the collection as it is now."""
    told = seen.events(collection.look())
    return {e.partition("\n")[0].removeprefix("event: "): data_of(e) for e in told}


# What is read again


def test_a_heartbeat_reads_no_record_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin_run(tmp_path)
    land(run, Made(slide_id="s1"))
    collection = open_collection([run.root])
    before = collection.latest
    read: list[str] = []
    real = RunDirectory.read_record

    def counted(self: RunDirectory, slide_id: str) -> dict[str, Any]:
        read.append(slide_id)
        return real(self, slide_id)

    monkeypatch.setattr(RunDirectory, "read_record", counted)
    tell(run, done=1, progress={"s0": 0.5})
    after = collection.look()
    assert read == []
    assert says(after, "s0")["progress"] == 0.5
    assert after.entries[key_of("s1")] is before.entries[key_of("s1")]
    land(run, Made(slide_id="s2"))
    assert says(collection.look(), "s2")["status"] == "done"
    assert read == ["s2"]


def test_a_look_at_a_bucket_gets_nothing_per_slide(
    tmp_path: Path, bucket_url: str, bucket_server: "Bucket"
) -> None:
    run = begin_run(tmp_path)
    for slide_id in ("s0", "s1"):
        land(run, Made(slide_id=slide_id))
    for path in (p for p in run.root.rglob("*") if p.is_file()):
        put(f"{bucket_url}/run/{path.relative_to(run.root)}", path.read_bytes())
    collection = open_collection([f"{bucket_url}/run"])
    for number in range(3):
        tell(run, done=2, progress={"s2": number / 4})
        put(f"{bucket_url}/run/status.json", run.status.read_bytes())
        bucket_server.requests.clear()
        assert says(collection.look(), "s2")["progress"] == number / 4
        assert bucket_server.asked("GET", "done/") <= 1  # the list of them
        assert bucket_server.asked("GET", ".json") == 1  # status.json


def test_a_run_that_is_over_is_looked_at_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = viewed_run(tmp_path)
    tell(run, phase="done")
    collection = open_collection([run.root])
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 20)
    assert not collection.is_due
    monkeypatch.setattr(time, "monotonic", lambda: now + 31)
    assert collection.is_due
    tell(run, phase="segment")  # somebody goes on with it
    collection.look()
    monkeypatch.setattr(time, "monotonic", lambda: now + 33)
    assert collection.is_due


def test_it_is_read_in_the_background(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    with client(run) as browser:
        land(run, Made(slide_id="s1"))
        wait_until(
            lambda: "done" in [s["status"] for s in told_slides(browser)], timeout_s=10
        )


def told_slides(browser: Any) -> list[dict[str, Any]]:
    slides: list[dict[str, Any]] = browser.get("/api/cohort").json()["slides"]
    return slides


def wait_until(holds: Callable[[], bool], *, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_records_that_are_no_records_do_not_end_the_looking(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    before = collection.latest
    run.write_json(run.done("s1"), {"outcome": {"slide_id": "s1"}})
    assert collection.look().slides == before.slides
    land(run, Made(slide_id="s1"))
    assert says(collection.look(), "s1")["status"] == "done"


# Failures


def test_who_failed_once_stays_failed(tmp_path: Path) -> None:
    """status.json names the last 100 alone."""
    run = begin_run(tmp_path)
    tell(run, failed=100, failures=[failed(i) for i in range(100)])
    collection = open_collection([run.root])
    tell(run, failed=150, failures=[failed(i) for i in range(50, 150)])
    snapshot = collection.look()
    names = {e["slide_id"] for e in snapshot.slides.values() if e["failure"]}
    assert names == {f"f{i:03}" for i in range(150)}
    assert snapshot.status is not None
    assert snapshot.status["unnamed"] == 0


def test_who_came_late_knows_how_many_more_failed(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    tell(run, failed=150, failures=[failed(i) for i in range(50, 150)])
    status = open_collection([run.root]).latest.status
    assert status is not None
    assert status["unnamed"] == 50


def test_another_start_tries_them_again(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    tell(run, started="2026-01-01T00:00:00+00:00", failed=1,
         failures=[{**failed(0), "slide_id": "s1"}])  # fmt: skip
    collection = open_collection([run.root])
    assert says(collection.latest, "s1")["status"] == "failed"
    tell(run)
    assert says(collection.look(), "s1")["status"] == "waiting"


# What a page is told


def test_a_page_is_told_who_left(tmp_path: Path) -> None:
    run = viewed_run(tmp_path, failures=[failure_of("bad")])
    collection = open_collection([run.root])
    seen = Seen(collection.latest)
    run.write_table(run.failures, [], FAILURES)
    told = events_of(seen, collection)
    assert list(told) == ["gone"]
    assert told["gone"] == [key_of("bad")]


def test_a_page_is_told_that_the_folder_has_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for i in range(3):
        (folder / f"s{i}.tif").write_bytes(b"")
    collection = open_collection([folder])
    seen = Seen(collection.latest)
    collection.follow(begin_run(tmp_path))
    told = events_of(seen, collection)
    assert list(told) == ["cohort", "status"]
    cohort = told["cohort"]
    assert (cohort["kind"], cohort["runs"], cohort["whole"]) == ("run", ["a"], False)
    assert cohort["run_titles"]["a"].endswith("/run")
    assert cohort["status"]["state"] == "running"


def test_who_knows_the_present_state_is_not_told_it_again(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    with client(run) as browser:
        state = browser.get("/api/cohort").json()["state"]
    assert first_event(run, state) == "event: slides"
    assert first_event(run, "another") == "event: cohort"


def first_event(run: RunDirectory, since: str) -> str:
    """The first that is told after a slide has landed."""
    collection = open_collection([run.root])
    known = collection.latest
    seen = Seen(known if since != "another" else None)
    land(run, Made(slide_id="s1"))
    return next(seen.events(collection.look())).partition("\n")[0]


def test_streams_are_counted_when_they_are_let_in(tmp_path: Path) -> None:
    collection = open_collection([viewed_run(tmp_path).root])
    limits = Limits(streams=2)
    routes = CohortRoutes(Service(collection, limits), allow_run=False)

    async def burst() -> list[int]:
        codes = []
        for _ in range(3):
            request = Request({"type": "http", "headers": [], "query_string": b""})
            try:
                codes.append((await routes.events(request)).status_code)
            except HTTPException as e:
                codes.append(e.status_code)
        return codes

    assert asyncio.run(burst()) == [200, 200, 503]


# Patients


@pytest.mark.parametrize(
    ("ending", "rule"),
    [("stage", "once all slides"), ("burden", "not staged"), ("none", "not staged")],
)
def test_the_rule_says_why_there_is_no_stage(
    tmp_path: Path, ending: str, rule: str
) -> None:
    made = Made(
        slide_id="s",
        slide={"patient_id": "p", "node": "1"},
        outcome={"burden": 0.42, "viable_mm2": 1.0, "whole_mm2": 2.0},
    )
    settings = {"outcome": {"outcome": ending}}
    run = write_run(tmp_path / "run", [made], settings=settings)
    (patient,) = open_collection([run.root]).latest.patients
    assert rule in patient["rule"]


def test_a_node_says_how_far_it_is_and_what_was_found(tmp_path: Path) -> None:
    run = viewed_run(tmp_path, failures=[failure_of("bad", "p1")])
    (patient,) = open_collection([run.root]).latest.patients
    assert [(n["node"], n["status"], n["finding"]) for n in patient["nodes"]] == [
        ("1", "done", "tumor, 1.54 mm²"),
        ("2", "done", "no tumor found"),
        ("bad", "failed", "not analyzed"),
    ]
