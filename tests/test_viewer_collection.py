"""What is opened: runs while they go on and after, folders, two runs; what is said."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from digipath_ray.cohort.manifest import SlideRow, write_manifest
from digipath_ray.outcome.staging import Metastasis, stage_patient
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.status import timestamp
from digipath_ray.schema import SLIDES
from digipath_ray.storage.bucket import put
from digipath_ray.viewer.collection.collection import Collection, open_collection
from digipath_ray.viewer.collection.entries import key_of
from digipath_ray.viewer.collection.snapshot import Snapshot
from digipath_ray.viewer.server.live import Seen, follow
from tests.finished_runs import (
    Made,
    failure_of,
    slide_row,
    write_run,
)
from tests.slides import noise, write_levels
from tests.viewing import begin_run, data_of, land, payload, tell, viewed_run


@pytest.fixture
def anyio_backend() -> str:
    """What the server runs on."""
    return "asyncio"


def look(collection: Collection) -> Snapshot:
    """The snapshot, looked at anew whatever the time."""
    return collection.look()


# A finished run


def test_slides_come_as_the_report_orders_them(tmp_path: Path) -> None:
    run = viewed_run(tmp_path, failures=[failure_of("bad", "p1")])
    snapshot = open_collection([run.root]).latest
    assert [e.slide_id for e in snapshot.entries.values()] == ["bad", "with", "without"]
    assert (snapshot.kind, snapshot.ending) == ("run", "none")
    found = payload(snapshot, "with")
    assert found["status"] == "done"
    assert found["verdict_label"] == "tumor, 1.54 mm²"
    assert (found["lesions"], found["patient_id"], found["node"]) == (1, "p1", "1")
    bad = payload(snapshot, "bad")
    assert bad["failure"] == {
        "step": "read",
        "error": "the file is cut short",
        "hint": "copy it again",
    }
    assert [bad["status"], bad["attention"]] == ["failed", 5]
    assert payload(snapshot, "without")["attention"] == 0


def test_a_stage_has_its_rule_and_votes(tmp_path: Path) -> None:
    votes = ["macro", "macro", "micro", "macro"]
    made = Made(
        slide_id="n1",
        outcome={"metastasis": "macro", "votes": votes},
        slide={"patient_id": "p1", "node": "1"},
    )
    run = write_run(
        tmp_path / "run",
        [made],
        settings={"outcome": {"outcome": "stage"}},
        patients=[stage_patient("p1", [Metastasis.MACRO, None])],
    )
    snapshot = open_collection([run.root]).latest
    (patient,) = snapshot.patients
    assert patient["pn_stage"] == "pN1"
    assert not patient["complete"]
    assert patient["rule"].startswith("pN1: 1 to 3 metastatic nodes")
    assert patient["missing"] == ("1 node was not analyzed; it may raise the stage.")
    (node,) = patient["nodes"]
    assert [(v["forest"], v["type"]) for v in node["votes"]] == [
        ("RF-PI", "macro"), ("RF-PB", "macro"), ("RF-CI", "micro"), ("RF-CB", "macro"),
    ]  # fmt: skip
    entry = payload(snapshot, "n1")
    assert (entry["verdict"], entry["attention"]) == ("macro", 1)
    assert entry["reasons"] == [
        "Split votes. Of 4 forests, 3 for macrometastasis and 1 for micrometastasis; "
        "result: macrometastasis (the majority)."
    ]


def test_a_burden_is_its_verdict(tmp_path: Path) -> None:
    made = Made(slide_id="s", outcome={"burden": 0.4249, "viable_mm2": 1.0,
                                       "whole_mm2": 2.0})  # fmt: skip
    run = write_run(
        tmp_path / "run", [made], settings={"outcome": {"outcome": "burden"}}
    )
    entry = payload(open_collection([run.root]).latest, "s")
    assert (entry["verdict"], entry["burden"]) == ("0.42", 0.4249)


def test_numbers_that_json_has_no_word_for_are_none(tmp_path: Path) -> None:
    made = Made(slide_id="s", outcome={"unsure": float("nan"), "score": float("inf")})
    run = write_run(tmp_path / "run", [made])
    snapshot = open_collection([run.root]).latest
    assert payload(snapshot, "s")["unsure"] is payload(snapshot, "s")["score"] is None
    json.dumps(list(snapshot.slides.values()), allow_nan=False)


def test_a_run_whose_ids_lead_elsewhere_is_not_believed(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    rows = [slide_row(Made(slide_id=i)) for i in ("../../etc/x", "a\nb", "fine")]
    run.write_table(run.slides, rows, SLIDES)
    snapshot = open_collection([run.root]).latest
    ids = {entry.slide_id for entry in snapshot.entries.values()}
    assert ids == {"with", "without", "fine"}


# A run that goes on


def test_slides_land_while_it_is_open(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    first = collection.latest
    assert {e["status"] for e in first.slides.values()} == {"waiting"}
    assert {e["attention"] for e in first.slides.values()} == {None}
    assert first.status is not None
    assert first.status["state"] == "running"

    land(run, Made(slide_id="s1", lesions=((1500, 1500, 700, 0.95),)))
    second = look(collection)
    assert payload(second, "s1")["status"] == "done"
    assert payload(second, "s1")["lesions"] == 1
    assert payload(second, "s0") == payload(first, "s0")
    assert look(collection) is second  # nothing has changed


def test_slides_wait_before_the_first_is_prepared(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    run.slides.unlink()
    rows = [SlideRow(slide_id=f"s{i}", path=f"/s{i}.tif", node=str(i)) for i in (0, 1)]
    write_manifest(rows, run.manifest)
    said = {"slide_id": "s1", "step": "prepare", "error": "cut", "hint": "copy it"}
    tell(run, phase="prepare", failed=1, failures=[said])
    snapshot = open_collection([run.root]).latest
    told = {e["slide_id"]: (e["status"], e["node"]) for e in snapshot.slides.values()}
    assert told == {"s0": ("waiting", "0"), "s1": ("failed", "1")}


def test_slides_in_flight_have_their_progress(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    tell(run, open_slides=1, finishing=1, progress={"s0": 0.25, "s2": 1.0})
    snapshot = open_collection([run.root]).latest
    told = {
        e["slide_id"]: (e["status"], e["progress"]) for e in snapshot.slides.values()
    }
    assert told == {
        "s0": ("running", 0.25), "s1": ("waiting", None), "s2": ("running", 1.0),
    }  # fmt: skip


def test_a_type_is_known_before_the_tables_are(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    text = run.settings.read_text().replace('outcome = "none"', 'outcome = "stage"')
    run.settings.write_text(text)
    land(run, Made(slide_id="s1", lesions=((1500, 1500, 700, 0.95),)))
    entry = payload(open_collection([run.root]).latest, "s1")
    assert (entry["metastasis"], entry["verdict"]) == ("micro", "micro")


def test_failures_show_before_their_table_is_written(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    said = {"slide_id": "s2", "step": "read", "error": "cut short", "hint": "copy it"}
    tell(run, failed=1, failures=[said])
    entry = payload(open_collection([run.root]).latest, "s2")
    assert entry["status"] == "failed"
    assert entry["failure"]["hint"] == "copy it"
    assert entry["thumbnail"] is False


def test_a_dead_run_says_that_its_slides_were_not_analyzed(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    tell(run, updated="2020-01-01T00:00:00+00:00", started="2020-01-01T00:00:00+00:00")
    snapshot = open_collection([run.root]).latest
    assert snapshot.status is not None
    assert snapshot.status["state"] == "dead"
    entry = payload(snapshot, "s0")
    assert entry["status"] == "waiting"
    assert entry["reasons"][0].startswith("Not analyzed yet.")


def test_a_damaged_table_leaves_what_was_shown(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    collection = open_collection([run.root])
    before = collection.latest
    kept = run.outcomes.read_bytes()
    run.outcomes.write_bytes(b"no table")
    assert look(collection) is before
    run.outcomes.write_bytes(kept)
    assert look(collection).slides == before.slides


def test_a_slide_that_is_made_again_is_waited_for(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    run.done("with").unlink()
    tell(run)
    snapshot = open_collection([run.root]).latest
    assert payload(snapshot, "with")["status"] == "waiting"
    assert payload(snapshot, "without")["status"] == "done"


def test_a_pace_in_slides_an_hour(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    now = time.time()
    tell(run, done=2, started=timestamp(now - 1800), updated=timestamp(now))
    status = open_collection([run.root]).latest.status
    assert status is not None
    assert status["slides_per_h"] == pytest.approx(4.0)


# Events


def test_events_tell_only_what_is_news(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    collection = open_collection([run.root])
    seen = Seen()
    first = list(seen.events(collection.latest))
    assert [e.partition("\n")[0] for e in first] == [
        "event: cohort", "event: status", "event: slides", "event: patients",
    ]  # fmt: skip
    assert data_of(first[0])["whole"] is True
    assert len(data_of(first[2])) == 3
    assert list(seen.events(collection.latest)) == []

    land(run, Made(slide_id="s1"))
    news = list(seen.events(look(collection)))
    assert [e.partition("\n")[0] for e in news] == ["event: slides"]
    assert [slide["slide_id"] for slide in data_of(news[0])] == ["s1"]


def test_a_name_with_line_breaks_is_one_event() -> None:
    snapshot = Snapshot(title="", kind="run", ending="none", status={"why": "a\n\nb"})
    (event,) = Seen(Snapshot(title="", kind="run", ending="none")).events(snapshot)
    assert event.count("\n\n") == 1


@pytest.mark.anyio
async def test_events_end_when_the_page_goes(tmp_path: Path) -> None:
    collection = open_collection([viewed_run(tmp_path).root])
    looks = 0

    async def gone() -> bool:
        nonlocal looks
        looks += 1
        return looks > 4

    told = [
        e async for e in follow(lambda: collection.latest, gone, every_s=0, comment_s=0)
    ]
    assert told[0].startswith("retry:")
    assert [e.partition("\n")[0] for e in told[1:]] == [
        "event: cohort", "event: slides", "event: patients",
        f"id: {collection.latest.state}",
        ": here", ": here", ": here", ": here",
    ]  # fmt: skip


# Folders, manifests, two runs


def test_a_thousand_slides_open_without_being_opened(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for i in range(1000):
        (folder / f"s{i:04}.svs").write_bytes(b"not looked at")
    started = time.monotonic()
    snapshot = open_collection([folder]).latest
    assert time.monotonic() - started < 5
    assert len(snapshot.entries) == 1000
    assert snapshot.kind == "folder"
    assert {e["status"] for e in snapshot.slides.values()} == {"waiting"}


def test_a_manifest_has_patients(tmp_path: Path) -> None:
    write_levels(tmp_path / "s.tif", [noise(64, 64)], mpp=1)
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,path,patient_id,node\na,s.tif,p,2\nb,s.tif,p,1\n")
    snapshot = open_collection([manifest]).latest
    (patient,) = snapshot.patients
    assert [node["node"] for node in patient["nodes"]] == ["1", "2"]
    assert patient["pn_stage"] is None


def test_two_runs_share_their_slides(tmp_path: Path) -> None:
    first = viewed_run(tmp_path)
    second = write_run(tmp_path / "second", [Made(slide_id="with")])
    snapshot = open_collection([first.root], against=second.root).latest
    assert list(snapshot.runs) == ["a", "b"]
    assert list(snapshot.entries[key_of("with")].runs) == ["a", "b"]
    assert list(snapshot.entries[key_of("without")].runs) == ["a"]


@pytest.mark.parametrize("against", ["slides", "nothing"])
def test_what_is_no_run_cannot_be_compared_with(tmp_path: Path, against: str) -> None:
    run = viewed_run(tmp_path)
    with pytest.raises(ValueError, match="not a run directory"):
        open_collection([run.root], against=tmp_path / against)


def test_an_opened_run_stays_open_when_another_is_started(tmp_path: Path) -> None:
    collection = open_collection([viewed_run(tmp_path).root])
    before = collection.latest
    collection.follow(write_run(tmp_path / "other"))
    assert look(collection).slides == before.slides


def test_a_run_started_from_a_folder_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for i in range(4):
        (folder / f"s{i}.tif").write_bytes(b"")
    collection = open_collection([folder])
    collection.follow(RunDirectory(tmp_path / "run"))
    assert look(collection).kind == "folder"  # it has not written anything yet
    run = begin_run(tmp_path)
    land(run, Made(slide_id="s1"))
    snapshot = look(collection)
    assert snapshot.kind == "run"
    assert {e["slide_id"]: e["status"] for e in snapshot.slides.values()} == {
        "s0": "waiting", "s1": "done", "s2": "waiting", "s3": "waiting",
    }  # fmt: skip


def test_nodes_that_a_started_run_leaves_out_can_raise_the_stage(
    tmp_path: Path,
) -> None:
    manifest = tmp_path / "m.csv"
    rows = "".join(f"n{i},n{i}.tif,p1,{i}\n" for i in (1, 2, 3))
    for i in (1, 2, 3):
        (tmp_path / f"n{i}.tif").write_bytes(b"")
    manifest.write_text(f"slide_id,path,patient_id,node\n{rows}")
    made = Made(
        slide_id="n1",
        outcome={"metastasis": "micro"},
        slide={"patient_id": "p1", "node": "1"},
    )
    run = write_run(
        tmp_path / "run",
        [made],
        settings={"outcome": {"outcome": "stage"}},
        patients=[stage_patient("p1", [Metastasis.MICRO])],
    )
    collection = open_collection([manifest])
    collection.follow(run)
    (patient,) = look(collection).patients
    assert (patient["pn_stage"], patient["complete"]) == ("pN1mi", False)
    assert patient["missing"] == "The run does not include 2 slides of this patient."
    assert [(n["node"], n["status"]) for n in patient["nodes"]] == [
        ("1", "done"), ("2", "waiting"), ("3", "waiting"),
    ]  # fmt: skip


def test_a_run_in_a_bucket(tmp_path: Path, bucket_url: str) -> None:
    run = viewed_run(tmp_path)
    for path in run.root.rglob("*"):
        if path.is_file():
            name = path.relative_to(run.root)
            put(f"{bucket_url}/run/{name}", path.read_bytes())
    collection = open_collection([f"{bucket_url}/run"])
    snapshot = collection.latest
    assert payload(snapshot, "with")["status"] == "done"
    assert look(collection) is snapshot
    record = json.loads(run.done("with").read_text())
    record["outcome"]["unsure"] = 0.5
    put(f"{bucket_url}/run/done/with.json", json.dumps(record).encode())
    assert look(collection) is not snapshot


def test_a_snapshot_does_not_change(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    collection = open_collection([run.root])
    before = collection.latest
    kept = {key: dict(payload) for key, payload in before.slides.items()}
    land(run, replace(Made(slide_id="third")))
    run.outcomes.unlink()
    assert len(look(collection).entries) == 3
    assert before.slides == kept
