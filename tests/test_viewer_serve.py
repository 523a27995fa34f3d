"""The viewer as a process: its address, its events on a real connection, its end."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from digipath_ray.cli import run_app
from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.serve import FIRST_PORT, address_of, bind, open_browser
from digipath_ray.viewer.server.auth import Trust
from tests.finished_runs import Made
from tests.viewing import DIGIPATH, begin_run, land, viewed_run, viewing


def test_the_command_serves_a_run(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    with viewing(run.root) as (address, process):
        told = httpx2.get(f"{address}api/cohort").json()
        assert len(told["slides"]) == 2
        assert "#" not in address
        listening = psutil.Process(process.pid).net_connections()
        assert {c.laddr.ip for c in listening if c.status == "LISTEN"} == {"127.0.0.1"}
    assert process.returncode in (0, 130)


def test_off_this_machine_the_address_has_a_token(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    with viewing(run.root, "--host", "0.0.0.0") as (address, _):
        where, _, token = address.partition("/#token=")
        assert len(token) >= 43
        port = where.rpartition(":")[2]
        site = f"http://127.0.0.1:{port}"
        assert httpx2.get(f"{site}/api/cohort").status_code == 401
        headers = {"Origin": site, "X-Digipath": "1"}
        with httpx2.Client(base_url=site) as browser:
            answer = browser.post("/api/login", json={"token": token}, headers=headers)
            assert answer.status_code == 200
            assert browser.get("/api/cohort").status_code == 200


def test_who_may_start_runs_gets_an_address_with_a_token(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    with viewing(run.root, "--allow-run") as (address, _):
        where, _, token = address.partition("#token=")
        assert len(token) >= 43
        assert httpx2.get(f"{where}api/jobs").status_code == 401


def listening(state: Path, run: RunDirectory, **streams: Any) -> subprocess.Popen[str]:
    """``digipath view`` that asks for a token; it keeps its address below ``state``."""
    command = [*DIGIPATH, "view", str(run.root), "--allow-run", "--port", "0"]
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    return subprocess.Popen(
        [*command, "--no-browser"], text=True, env=environment, **streams
    )


def until_served(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if "Ctrl-C" in line:
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_log_holds_no_token_but_names_its_file(tmp_path: Path, number: int) -> None:
    process = listening(tmp_path, viewed_run(tmp_path), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines = list(until_served(process.stdout))
        (file,) = (tmp_path / "digipath_ray").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert lines[1] == f"The address with its token: {file}\n"
        site, _, token = file.read_text().strip().partition("#token=")
        assert lines[2] == f"{site}   (Ctrl-C ends it)\n"
        assert len(token) >= 43
        httpx2.get(site)
        process.send_signal(number)
        process.wait(90)
        assert token not in process.stdout.read()
        assert not file.exists()
    finally:
        process.kill()
        process.communicate()


def test_a_terminal_is_told_the_token(tmp_path: Path) -> None:
    screen, end = os.openpty()
    process = listening(tmp_path, viewed_run(tmp_path), stdout=end)
    try:
        said = b""
        while b"Ctrl-C" not in said:
            said += os.read(screen, 4096)
        assert re.search(rb"http://127\.0\.0\.1:\d+/#token=[\w-]{43}", said)
        assert not (tmp_path / "digipath_ray").exists()
    finally:
        process.terminate()
        process.wait(90)
        os.close(screen)
        os.close(end)


def test_where_no_token_can_be_kept_one_can_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = viewed_run(tmp_path)
    arguments = ["view", str(run.root), "--host", "0.0.0.0", "--no-browser"]
    assert run_app(arguments) == 2
    assert "--token-file" in capsys.readouterr().err


def test_slides_land_on_an_open_page_and_the_stream_ends_with_it(
    tmp_path: Path,
) -> None:
    run = begin_run(tmp_path)
    with viewing(run.root) as (address, process):
        with httpx2.stream("GET", f"{address}api/events", timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            assert len(next_slides(lines)) == 3
            land(run, Made(slide_id="s1"))
            (slide,) = next_slides(lines)
            assert (slide["slide_id"], slide["status"]) == ("s1", "done")
        server = psutil.Process(process.pid)
        end = time.monotonic() + 10
        while has_client(server) and time.monotonic() < end:
            time.sleep(0.1)
        assert not has_client(server)


def next_slides(lines: Iterator[str]) -> list[dict[str, str]]:
    for line in lines:
        if line == "event: slides":
            told: list[dict[str, str]] = json.loads(next(lines).partition("data: ")[2])
            return told
    raise AssertionError("the stream has ended")


def has_client(server: psutil.Process) -> bool:
    return any(c.status == "ESTABLISHED" for c in server.net_connections())


def test_an_open_page_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    with viewing(viewed_run(tmp_path).root) as (address, process):
        with httpx2.stream("GET", f"{address}api/events", timeout=20) as answer:
            next(answer.iter_lines())
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        assert time.monotonic() - started < 10


# The socket


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .* another --port"):
            bind("127.0.0.1", port)


def test_the_next_free_port_is_taken_where_none_is_named() -> None:
    with bind("127.0.0.1", None) as first, bind("127.0.0.1", None) as second:
        ports = [s.getsockname()[1] for s in (first, second)]
    assert FIRST_PORT <= ports[0] < ports[1]


def test_an_address_that_is_not_ours_is_not_called_taken() -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.1 \(Cannot assign"):
        bind("192.0.2.1", None)


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"--host no\.such\.host\.invalid: cannot be resolved"
    ):
        bind("no.such.host.invalid", 0)


def test_the_address_is_one_that_a_browser_takes() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        shown = address_of(listener, Trust(), host="127.0.0.1")
        assert shown == f"http://127.0.0.1:{port}/"
        hidden = address_of(listener, Trust(token="x" * 20), host="0.0.0.0")
        name = socket.gethostname()
        assert hidden == f"http://{name}:{port}/#token={'x' * 20}"
        assert address_of(listener, Trust(), host="::1") == f"http://[::1]:{port}/"


@pytest.mark.parametrize(
    ("host", "display", "opens"),
    [("127.0.0.1", ":0", True), ("127.0.0.1", "", False), ("0.0.0.0", ":0", False)],
)
def test_a_browser_opens_where_there_is_a_screen(
    monkeypatch: pytest.MonkeyPatch, host: str, display: str, opens: bool
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    asked = []

    def note(address: str) -> bool:
        asked.append(address)
        return True

    assert open_browser("http://x/", host=host, opens=note) is opens
    assert bool(asked) is opens


# The command's mistakes


@pytest.mark.parametrize("what", ["nothing-here", "empty"])
def test_nothing_to_show_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert run_app(["view", str(tmp_path / what), "--no-browser"]) == 2
    assert "Error:" in capsys.readouterr().err


def test_a_token_that_others_may_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 40)
    token.chmod(0o644)
    run = viewed_run(tmp_path)
    arguments = ["view", str(run.root), "--no-browser", "--token-file", str(token)]
    assert run_app(arguments) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_without_the_extra_it_is_named() -> None:
    script = (
        "import sys; sys.modules['starlette'] = None\n"
        "from digipath_ray.cli import run_app\n"
        "sys.exit(run_app(['view', '.', '--no-browser']))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 2
    assert "pip install 'digipath_ray[viewer]'" in out.stderr


def test_the_viewer_needs_no_ray_and_no_torch() -> None:
    script = (
        "import sys, digipath_ray.viewer.app, digipath_ray.viewer.serve\n"
        "print(sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert out.stdout.strip() == "[]"
