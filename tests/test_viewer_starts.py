"""Runs started from the page: checked, one at a time, canceled, none left behind."""

import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.bucket import put
from digipath_ray.storage.files import place
from digipath_ray.viewer.collection.collection import open_collection
from digipath_ray.viewer.collection.entries import key_of
from digipath_ray.viewer.queue import queue as starts_module
from digipath_ray.viewer.queue.jobs import NAME, Wanted, find_free, is_free
from digipath_ray.viewer.queue.queue import Starts
from tests.slides import noise, write_levels
from tests.viewing import POST, client

SAYS = "import sys; print('told:', *sys.argv[1:]); sys.exit(int({code}))"
WAITS = "import time; print('begun', flush=True); time.sleep(60)"


def folder_of_slides(folder: Path) -> Path:
    (folder / "slides").mkdir(parents=True)
    for name in ("s0", "s1"):
        write_levels(folder / "slides" / f"{name}.tif", [noise(64, 64)], mpp=1)
    return folder / "slides"


def viewer(tmp_path: Path, code: str) -> tuple[TestClient, list[RunDirectory]]:
    """A page that may start runs, of a program in place of ``digipath``."""
    begun: list[RunDirectory] = []
    command = (sys.executable, "-c", code)
    starts = Starts(tmp_path, command=command, begun=begun.append)
    return client(folder_of_slides(tmp_path), starts=starts), begun


def post(browser: TestClient, **change: Any) -> Any:
    wanted = {
        "slides": [key_of("s0")],
        "preset": "demo",
        "weights": "random",
        "out": "night",
        **change,
    }
    return browser.post("/api/jobs", json=wanted, headers=POST)


def wait_until(browser: TestClient, holds: Callable[[list[Any]], bool]) -> list[Any]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        jobs = browser.get("/api/jobs").json()["jobs"]
        if holds(jobs):
            return list(jobs)
        time.sleep(0.05)
    raise AssertionError(jobs)


def test_without_allow_run_there_are_none(tmp_path: Path) -> None:
    with client(folder_of_slides(tmp_path)) as browser:
        assert browser.get("/api/jobs").status_code == 404
        assert post(browser).status_code in (404, 405)


def test_a_run_is_what_a_user_would_type(tmp_path: Path) -> None:
    browser, begun = viewer(tmp_path, SAYS.format(code=0))
    with browser:
        assert browser.get("/api/cohort").json()["allow_run"] is True
        answer = post(browser)
        assert answer.status_code == 201
        assert answer.json()["state"] == "queued"
        (job,) = wait_until(browser, lambda jobs: jobs[0]["state"] == "done")
    (line,) = job["output"]
    told, command, manifest, *options = line.split(" ")
    assert [told, command] == ["told:", "run"]
    assert options == ["--preset=demo", f"--out={tmp_path / 'night'}",
                       "--weights=random"]  # fmt: skip
    assert manifest.endswith(".csv")
    assert begun[0].root == tmp_path / "night"


def test_the_chosen_slides_are_its_manifest(tmp_path: Path) -> None:
    browser, _ = viewer(tmp_path, "import sys; print(open(sys.argv[2]).read())")
    with browser:
        post(browser, slides=[key_of("s1")])
        (job,) = wait_until(browser, lambda jobs: jobs[0]["state"] == "done")
    (tmp_path / "told.csv").write_text("\n".join(job["output"]))
    (row,) = read_cohort([tmp_path / "told.csv"])
    assert (row.slide_id, row.path) == ("s1", str(tmp_path / "slides" / "s1.tif"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slides": []}, "at least one"),
        ({"slides": "all"}, "at least one"),
        ({"slides": ["0123456789abcdef"]}, "not in this cohort"),
        ({"slides": ["/etc/passwd"]}, "not in this cohort"),
        ({"slides": [["s0"]]}, "not in this cohort"),
        ({"preset": "--help"}, "preset"),
        ({"preset": ["demo"]}, "preset"),
        ({"preset": None}, "preset"),
        ({"weights": "a\nb"}, "weights"),
        ({"weights": "/no/such/folder"}, "weights: /no/such/folder: not found"),
        ({"weights": {}, "out": "-x"}, "out"),
        ({"out": "../elsewhere"}, "out"),
        ({"out": "/etc"}, "out"),
        ({"out": ".."}, "out"),
        ({"out": ".hidden"}, "out"),
        ({"out": "--overwrite"}, "out"),
        ({"out": None}, "out"),
    ],
)
def test_what_is_wrong_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    browser, _ = viewer(tmp_path, SAYS.format(code=0))
    with browser:
        answer = post(browser, **change)
        assert answer.status_code == 400
        assert said in answer.json()["error"]
        told = browser.get("/api/jobs").json()
        assert told["jobs"] == []
        assert "demo" in told["presets"]


@pytest.mark.parametrize(
    ("code", "state"), [(0, "done"), (1, "done"), (2, "failed"), (3, "failed")]
)
def test_how_a_run_ended(tmp_path: Path, code: int, state: str) -> None:
    browser, _ = viewer(tmp_path, SAYS.format(code=code))
    with browser:
        post(browser)
        (job,) = wait_until(browser, lambda jobs: jobs[0]["ended"] is not None)
    assert (job["state"], job["exit_code"]) == (state, code)


def test_one_runs_at_a_time_and_each_can_be_canceled(tmp_path: Path) -> None:
    browser, _ = viewer(tmp_path, WAITS)
    with browser:
        ids = [post(browser, out=f"night{i}").json()["id"] for i in range(3)]
        jobs = wait_until(browser, lambda jobs: jobs[0]["output"] == ["begun"])
        assert [job["state"] for job in jobs] == ["running", "queued", "queued"]
        for number in (1, 0):
            url = f"/api/jobs/{ids[number]}/cancel"
            assert (
                browser.post(url, json={}, headers=POST).json()["state"] == "canceled"
            )
        jobs = wait_until(browser, lambda jobs: jobs[2]["output"] == ["begun"])
        assert [job["state"] for job in jobs] == ["canceled", "canceled", "running"]
        assert jobs[0]["exit_code"] not in (None, 0)
        unknown = browser.post("/api/jobs/nothing/cancel", json={}, headers=POST)
        assert unknown.status_code == 404


def test_two_runs_do_not_share_a_place(tmp_path: Path) -> None:
    browser, _ = viewer(tmp_path, WAITS)
    with browser:
        assert post(browser).status_code == 201
        assert "night is already queued" in post(browser).json()["error"]


@pytest.mark.parametrize("there", ["night/run.toml", "night/a.txt", "night"])
def test_a_run_does_not_go_into_what_is_there(tmp_path: Path, there: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("")
    browser, _ = viewer(tmp_path, SAYS.format(code=0))
    with browser:
        answer = post(browser)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("out: night already exists")
        assert "another name" in answer.json()["error"]
        assert browser.get("/api/jobs").json()["jobs"] == []
        assert post(browser, out="other").status_code == 201


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "night").mkdir()
    browser, _ = viewer(tmp_path, SAYS.format(code=0))
    with browser:
        assert post(browser).status_code == 201


def test_a_run_in_a_bucket_is_not_mixed_with_another(bucket_url: str) -> None:
    out = place(f"{bucket_url}/night")
    assert is_free(out)
    put(f"{bucket_url}/night/run.toml", b"")
    assert not is_free(out)
    assert find_free(out.parent, "night", taken=[out.parent / "night-2"]) == "night-3"


def test_the_page_is_told_a_free_name(tmp_path: Path) -> None:
    browser, _ = viewer(tmp_path, WAITS)
    with browser:
        first = browser.get("/api/jobs").json()["out"]
        assert re.fullmatch(r"slides-\d{4}-\d\d-\d\d", first)
        (tmp_path / first / "done").mkdir(parents=True)
        second = browser.get("/api/jobs").json()["out"]
        assert second == f"{first}-2"
        assert post(browser, out=second).status_code == 201
        assert browser.get("/api/jobs").json()["out"] == f"{first}-3"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("../CAMELYON 17, center 2", "CAMELYON-17-center-2"),
        ("\N{GREEK SMALL LETTER MU}", "run"),
        ("x" * 300, "x" * 40),
    ],
)
def test_a_free_name_is_none_that_is_refused(
    tmp_path: Path, title: str, name: str
) -> None:
    async def ask() -> str:
        starts = Starts(tmp_path)
        found = await starts.free_name(title)
        await starts.stop()
        return found

    found = asyncio.run(ask())
    assert found.startswith(f"{name}-2")
    assert NAME.fullmatch(found)


def test_the_line_of_runs_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts_module, "MOST_QUEUED", 2)
    browser, _ = viewer(tmp_path, WAITS)
    with browser:
        codes = [post(browser, out=f"night{i}").status_code for i in range(3)]
    assert codes == [201, 201, 400]


def test_a_run_ends_with_the_server(tmp_path: Path) -> None:
    browser, _ = viewer(tmp_path, WAITS)
    with browser:
        post(browser)
        wait_until(browser, lambda jobs: jobs[0]["output"] == ["begun"])
        children = psutil.Process().children()
        assert any("begun" in " ".join(c.cmdline()) for c in children)
    left = [c for c in children if c.is_running() and "begun" in " ".join(c.cmdline())]
    assert left == []


def test_a_run_that_does_not_listen_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts_module, "ENDS_S", 0.3)
    deaf = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    browser, _ = viewer(tmp_path, deaf)
    with browser:
        identity = post(browser).json()["id"]
        wait_until(browser, lambda jobs: jobs[0]["output"] == ["begun"])
        browser.post(f"/api/jobs/{identity}/cancel", json={}, headers=POST)
        (job,) = wait_until(browser, lambda jobs: jobs[0]["ended"] is not None)
    assert job["exit_code"] == -9


def test_a_program_that_is_not_there_fails_its_run_alone(tmp_path: Path) -> None:
    starts = Starts(tmp_path, command=("no-such-program-anywhere",))
    with client(folder_of_slides(tmp_path), starts=starts) as browser:
        post(browser)
        post(browser, out="second")
        jobs = wait_until(browser, lambda jobs: jobs[1]["ended"] is not None)
    assert [job["state"] for job in jobs] == ["failed", "failed"]
    assert "cannot start" in jobs[0]["output"][0]


def test_a_started_run_is_shown(tmp_path: Path) -> None:
    collection = open_collection([folder_of_slides(tmp_path)])
    begun: list[RunDirectory] = []

    def begin(run: RunDirectory) -> None:
        begun.append(run)
        collection.follow(run)

    command = (sys.executable, "-c", SAYS.format(code=0))
    starts = Starts(tmp_path, command=command, begun=begin)
    with client(collection, starts=starts) as browser:
        post(browser)
        wait_until(browser, lambda jobs: jobs[0]["state"] == "done")
        assert [run.root for run in begun] == [tmp_path / "night"]
        assert browser.get("/api/cohort").json()["slides"], "it has written nothing"
        assert collection.run is None


def test_ending_the_server_begins_no_other_run(tmp_path: Path) -> None:
    begun: list[RunDirectory] = []
    command = (sys.executable, "-c", WAITS)
    starts = Starts(tmp_path, command=command, begun=begun.append)
    with client(folder_of_slides(tmp_path), starts=starts) as browser:
        post(browser)
        post(browser, out="second")
        wait_until(browser, lambda jobs: jobs[0]["state"] == "running")
    assert [run.root.name for run in begun] == ["night"]


def wanted(out: str) -> Wanted:
    slide = SlideRow(slide_id="s0", path="/s0.tif")
    return Wanted(slides=(slide,), preset="demo", weights=None, out=out)


def test_of_two_posts_at_once_one_takes_the_place(tmp_path: Path) -> None:
    starts = Starts(tmp_path)

    async def both() -> list[Any]:
        posts = [starts.add(wanted("night")) for _ in range(2)]
        answers = await asyncio.gather(*posts, return_exceptions=True)
        await starts.stop()
        return answers

    told, refused = asyncio.run(both())
    assert told["state"] == "queued"
    assert "night is already queued" in str(refused)


def test_a_run_that_cannot_be_told_of_does_not_stop_the_next(tmp_path: Path) -> None:
    def begin(run: RunDirectory) -> None:
        if run.root.name == "first":
            raise ValueError("told to")

    command = (sys.executable, "-c", SAYS.format(code=0))
    starts = Starts(tmp_path, command=command, begun=begin)
    with client(folder_of_slides(tmp_path), starts=starts) as browser:
        post(browser, out="first")
        post(browser, out="second")
        jobs = wait_until(browser, lambda jobs: jobs[1]["ended"] is not None)
    assert jobs[1]["state"] == "done"
    assert "told to" in jobs[0]["output"][-1]


def test_a_run_canceled_while_it_is_spawned_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Starts(tmp_path, command=(sys.executable, "-c", WAITS))
    real = asyncio.create_subprocess_exec

    async def slow(*command: Any, **options: Any) -> Any:
        process = await real(*command, **options)
        (job,) = starts.payloads
        starts.cancel(job["id"])  # before its process is known
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)

    async def run() -> float:
        await starts.add(wanted("night"))
        working = asyncio.create_task(starts.work())
        started = time.monotonic()
        while starts.payloads[0]["ended"] is None:
            await asyncio.sleep(0.05)
        working.cancel()
        took = time.monotonic() - started
        await starts.stop()
        return took

    assert asyncio.run(run()) < 10  # and not after ENDS_S


# A program that an earlier test left to die is collected here on a busy machine.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_finished_run_says_how_to_open_it(tmp_path: Path) -> None:
    writes = (
        "import sys, pathlib\n"
        "out = pathlib.Path(sys.argv[4].partition('=')[2]); out.mkdir()\n"
        "(out / 'run.toml').write_text('')\n"
    )
    browser, _ = viewer(tmp_path, writes)
    with browser:
        assert post(browser).json()["open"] is None
        (job,) = wait_until(browser, lambda jobs: jobs[0]["ended"] is not None)
    assert (job["state"], job["finished"]) == ("done", True)
    assert job["open"] == f"digipath view {tmp_path / 'night'}"


def test_to_be_asked_how_far_runs_are_costs_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of a cluster may hang, and all that is served with it."""
    starts = Starts(tmp_path, command=(sys.executable, "-c", SAYS.format(code=0)))

    async def run() -> None:
        await starts.add(wanted("night"))
        working = asyncio.create_task(starts.work())
        while starts.payloads[0]["ended"] is None:
            await asyncio.sleep(0.05)
        working.cancel()

    asyncio.run(run())

    def touched(path: Path, **_: Any) -> Any:
        raise AssertionError(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", touched)
        assert starts.payloads[0]["finished"] is False
    asyncio.run(starts.stop())
