"""A run that goes on under the viewer's eyes: what is read again, and what is told."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from digipath_ray.cohort.manifest import SlideRow, write_manifest
from digipath_ray.outcome.staging import Metastasis, stage_patient
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.status import timestamp
from digipath_ray.schema import FAILURES, OUTCOMES, PATIENTS, SLIDES
from digipath_ray.storage.bucket import put
from digipath_ray.viewer.collection.collection import (
    RECENT,
    Collection,
    open_collection,
)
from digipath_ray.viewer.collection.entries import key_of
from digipath_ray.viewer.collection.snapshot import Snapshot
from digipath_ray.viewer.server.cohort import CohortRoutes, Stream
from digipath_ray.viewer.server.limits import Limits
from digipath_ray.viewer.server.live import Seen
from digipath_ray.viewer.server.service import Service
from tests.finished_runs import Made, failure_of, slide_row, write_run
from tests.viewing import begin_run, client, data_of, land, payload, tell, viewed_run

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
    assert payload(after, "s0")["progress"] == 0.5
    assert after.entries[key_of("s1")] is before.entries[key_of("s1")]
    land(run, Made(slide_id="s2"))
    assert payload(collection.look(), "s2")["status"] == "done"
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
        assert payload(collection.look(), "s2")["progress"] == number / 4
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


@pytest.mark.parametrize(
    "record",
    [
        {"outcome": {}},
        {"outcome": {"slide_id": "s1"}},
        {"outcome": 3},
        {"outcome": None},
    ],
)
def test_a_damaged_record_is_its_own_slides_failure_alone(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    run.write_json(run.done("s1"), record)
    land(run, Made(slide_id="s2"))
    for snapshot in (collection.look(), open_collection([run.root]).latest):
        assert payload(snapshot, "s2")["status"] == "done"
        bad = payload(snapshot, "s1")
        assert bad["status"] == "failed"
        assert bad["failure"]["error"] == "the record done/s1.json is damaged"
        assert "run again" in bad["failure"]["hint"]
    land(run, Made(slide_id="s1"))
    assert payload(collection.look(), "s1")["status"] == "done"


def test_what_is_no_record_is_damaged(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    run.write_json(run.done("s1"), ["no", "record"])
    land(run, Made(slide_id="s2"))
    snapshot = collection.look()
    assert payload(snapshot, "s2")["status"] == "done"
    bad = payload(snapshot, "s1")
    assert (bad["status"], bad["failure"]["step"]) == ("failed", "record")


# What is made again


def staged_run(folder: Path, **options: Any) -> RunDirectory:
    """A finished run: p1 with a macrometastasis in one of two nodes, p2 without."""
    nodes = [("n1", "p1", LARGE), ("n2", "p1", ()), ("n3", "p2", ())]
    made = [
        Made(
            slide_id=slide_id,
            lesions=lesions,
            outcome={"metastasis": "macro" if lesions else "negative"},
            slide={"patient_id": patient_id, "node": slide_id[1:]},
        )
        for slide_id, patient_id, lesions in nodes
    ]
    patients = [
        stage_patient("p1", [Metastasis.MACRO, Metastasis.NEGATIVE]),
        stage_patient("p2", [Metastasis.NEGATIVE]),
    ]
    settings = {"outcome": {"outcome": "stage"}}
    run = write_run(folder / "run", made, settings=settings, patients=patients)
    tell(run, phase="done")
    return run


LARGE = ((1500.0, 1500.0, 1200.0, 0.95),)
AGAIN = Made(
    slide_id="n1", outcome={"seconds": 2.5}, slide={"patient_id": "p1", "node": "1"}
)
"""The node with the macrometastasis, in which nothing is found now."""
NOT_YET = "no stage yet: patients are staged when all slides of the run are done"


def stages(snapshot: Snapshot) -> list[tuple[str | None, bool]]:
    return [(p["pn_stage"], p["complete"]) for p in snapshot.patients]


@pytest.mark.parametrize("phase", ["segment", "stopped"])
def test_a_slide_made_again_lands_with_what_is_new(tmp_path: Path, phase: str) -> None:
    run = staged_run(tmp_path)
    collection = open_collection([run.root])
    assert payload(collection.latest, "n1")["verdict"] == "macro"
    run.forget("n1")
    tell(run)
    assert payload(collection.look(), "n1")["status"] == "waiting"
    land(run, AGAIN)
    tell(run, phase=phase)  # stopped: it lost its directory, and wrote no tables
    for snapshot in (collection.look(), open_collection([run.root]).latest):
        entry = payload(snapshot, "n1")
        assert (entry["status"], entry["verdict"]) == ("done", "negative")
        assert (entry["largest_um"], entry["lesions"]) == (0.0, 0)


def test_a_type_that_the_record_does_not_say_is_kept(tmp_path: Path) -> None:
    """Forests type slides, and only the tables hold that."""
    run = staged_run(tmp_path)
    record = run.read_record("n1")
    del record.outcome["metastasis"]
    record.outcome["aleatoric_mean"] = float("nan")
    run.write_record(record)
    row = {**record.outcome, "metastasis": "micro"}
    run.write_table(run.outcomes, [row], OUTCOMES)
    tell(run)
    assert payload(open_collection([run.root]).latest, "n1")["verdict"] == "micro"


def test_a_patient_whose_node_is_made_again_has_no_stage(tmp_path: Path) -> None:
    run = staged_run(tmp_path)
    collection = open_collection([run.root])
    assert stages(collection.latest) == [("pN1", True), ("pN0", True)]
    run.forget("n1")
    tell(run)
    for snapshot in (collection.look(), open_collection([run.root]).latest):
        assert stages(snapshot) == [(None, False), ("pN0", True)]
        assert snapshot.patients[0]["rule"] == NOT_YET
    land(run, AGAIN)  # the table still has the macrometastasis
    for snapshot in (collection.look(), open_collection([run.root]).latest):
        assert stages(snapshot) == [(None, False), ("pN0", True)]
    tell(run, updated="2020-01-01T00:00:00+00:00", started="2020-01-01T00:00:00+00:00")
    snapshot = collection.look()
    assert snapshot.status is not None
    assert snapshot.status["state"] == "dead"
    assert stages(snapshot) == [(None, False), ("pN0", True)]


def test_a_patient_whose_node_fails_now_has_no_stage(tmp_path: Path) -> None:
    run = staged_run(tmp_path)
    run.forget("n1")
    tell(run, failed=1, failures=[{**failed(0), "slide_id": "n1"}])
    snapshot = open_collection([run.root]).latest
    assert payload(snapshot, "n1")["status"] == "failed"
    assert stages(snapshot) == [(None, False), ("pN0", True)]


@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_patient_who_gets_another_node_has_no_stage(
    tmp_path: Path, is_prepared: bool
) -> None:
    run = staged_run(tmp_path)
    names = {"n1": "p1", "n2": "p1", "n3": "p2", "n4": "p2"}
    given = [SlideRow(slide_id=i, path=f"/{i}", patient_id=p) for i, p in names.items()]
    write_manifest(given, run.manifest)
    if is_prepared:
        rows = [Made(slide_id=i, slide={"patient_id": p}) for i, p in names.items()]
        run.write_table(run.slides, [slide_row(made) for made in rows], SLIDES)
    tell(run)
    snapshot = open_collection([run.root]).latest
    assert stages(snapshot) == [("pN1", True), (None, False)]
    nodes = [node["status"] for node in snapshot.patients[1]["nodes"]]
    assert nodes == ["done", "waiting"]


def test_an_old_failure_that_fails_again_leaves_the_stage(tmp_path: Path) -> None:
    run = staged_run(tmp_path)
    run.forget("n1")
    run.write_table(run.failures, [vars(failure_of("n1", "p1"))], FAILURES)
    patient = stage_patient("p1", [None, Metastasis.NEGATIVE])
    run.write_table(run.patients, [vars(patient)], PATIENTS)
    tell(run)
    collection = open_collection([run.root])
    assert stages(collection.latest)[0] == (None, False)
    tell(run, failed=1, failures=[{**failed(0), "slide_id": "n1"}])
    assert stages(collection.look())[0] == ("pN0", False)


# Failures


def test_who_failed_once_stays_failed(tmp_path: Path) -> None:
    """status.json names the last 100 alone."""
    run = begin_run(tmp_path)
    started = timestamp(time.time())
    tell(run, started=started, failed=100, failures=[failed(i) for i in range(100)])
    collection = open_collection([run.root])
    later = [failed(i) for i in range(50, 150)]
    tell(run, started=started, failed=150, failures=later)
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
    assert payload(collection.latest, "s1")["status"] == "failed"
    tell(run)
    assert payload(collection.look(), "s1")["status"] == "waiting"


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


def test_a_page_that_comes_back_is_told_the_news_alone(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    state = collection.latest.state
    whole = ["cohort", "status", "slides 3", "patients 0", f"id {state}"]
    assert first_look(collection) == whole
    for number in (1, 2):
        land(run, Made(slide_id=f"s{number}"))
        collection.look()
    now = collection.latest.state
    news = ["slides 2", f"id {now}"]
    assert first_look(collection, since=state) == news
    assert first_look(collection, header=state, since="of another server") == news
    assert first_look(collection, header=now, since=state) == []
    assert first_look(collection, header="of another server")[0] == "cohort"


def first_look(
    collection: Collection, *, header: str = "", since: str = ""
) -> list[str]:
    """What a page is told as it connects: events with their lengths, and the id."""
    routes = CohortRoutes(Service(collection, Limits()), allow_run=False)
    scope = {
        "type": "http",
        "headers": [(b"last-event-id", header.encode())] if header else [],
        "query_string": f"since={since}".encode(),
    }

    async def nothing() -> Any:
        await asyncio.sleep(60)

    async def collect() -> list[str]:
        answer = await routes.events(Request(scope, nothing))
        assert isinstance(answer, Stream)
        told = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                async for part in answer.body_iterator:
                    told.append(summary(str(part)))
        return told[1:]  # without the first, "retry"

    return asyncio.run(collect())


def summary(event: str) -> str:
    kind, _, rest = event.partition("\n")
    if kind.startswith("event: ") and isinstance(data := data_of(rest), list):
        return f"{kind.removeprefix('event: ')} {len(data)}"
    return kind.removeprefix("event: ").replace(": ", " ")


def test_states_of_long_ago_are_forgotten(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    first = collection.latest
    for number in range(RECENT):
        assert collection.recall(first.state) is first
        tell(run, done=number + 1)
        collection.look()
    assert collection.recall(first.state) is None
    assert collection.recall(collection.latest.state) is collection.latest


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
    [("stage", "when all slides"), ("burden", "not staged"), ("none", "not staged")],
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
