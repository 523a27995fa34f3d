"""What Ray would meet on this machine is looked at before Ray is, and named."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from digipath_ray.distributed import connect as connecting
from digipath_ray.distributed.connect import connect, local_settings
from digipath_ray.distributed.surroundings import (
    SESSION,
    SOCKET_BYTES,
    check_folder,
    check_shared_memory,
    look_around,
)
from digipath_ray.machine import Allowance
from digipath_ray.run.failure import RunError

CONNECT = """
import os, sys
import ray
from digipath_ray.distributed import start
from digipath_ray.distributed.connect import connected

start.FIRST_WORD_S = start.NEXT_WORD_S = 0.5
with connected():
    print(dict(ray.get_runtime_context().runtime_env), flush=True)
"""


def failures(environment: dict[str, str]) -> list[tuple[str, str]]:
    return [(w, t) for verdict, w, t in look_around(environment) if verdict == "fail"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for Ray whose path is short enough, as pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as path:
        yield Path(path)


def serve(said: bytes) -> int:
    """A server that greets each client so and is silent from then on; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        clients = []
        while True:
            clients.append(server.accept()[0])
            clients[-1].sendall(said)

    threading.Thread(target=greet, daemon=True).start()
    return int(server.getsockname()[1])


SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""What a server of gRPC says first."""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "is Ray's job server"),
        ("https://head:8265", "is Ray's job server"),
        ("ray://head:10001", "give HOST:PORT of the head, such as head:6379"),
        ("redis://head:6379", "not through redis://"),
        ("nowhere", "no address of the form HOST:PORT"),
        ("head:port", "no address of the form HOST:PORT"),
        ("head:99999", "no address of the form HOST:PORT"),
        (" 127.0.0.1:6379", "no address of the form HOST:PORT"),
        ("[::1]:1", "no Ray head answers at RAY_ADDRESS=[::1]:1"),
        ("127.0.0.1:1", "no Ray head answers at RAY_ADDRESS=127.0.0.1:1"),
    ],
)
def test_an_address_that_leads_nowhere_is_explained(
    address: str, said: str, folder: Path
) -> None:
    environment = {"RAY_ADDRESS": address, "RAY_TMPDIR": str(folder)}
    [(what, text)] = failures(environment)
    assert (what, said in text) == ("ray address", True), text


def test_what_answers_is_to_speak_as_a_head_does(folder: Path) -> None:
    for greeting, heard in ((b"SSH-2.0-x\r\n", "SSH-2.0-x"), (SETTINGS, None)):
        address = f"127.0.0.1:{serve(greeting)}"
        found = failures({"RAY_ADDRESS": address, "RAY_TMPDIR": str(folder)})
        assert [heard in text for _, text in found] == ([True] if heard else [])


def test_the_file_of_a_dead_head_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(RunError) as caught:
        connect()
    assert f"delete {file}, or set RAY_ADDRESS=local" in str(caught.value)
    environment = {"RAY_ADDRESS": "auto", "TMPDIR": str(folder)}
    assert str(file) in failures(environment)[0][1]
    assert failures({**environment, "RAY_ADDRESS": "local"}) == []
    file.write_text("")
    assert "no address of the form" in failures({"RAY_TMPDIR": str(folder)})[0][1]


def test_the_cluster_of_another_user_is_not_joined_unasked(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("giving files away needs root")
    address = f"127.0.0.1:{serve(SETTINGS)}"
    file = folder / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(address)
    environment = {"RAY_TMPDIR": str(folder)}
    assert failures(environment) == []
    os.chown(file, 4242, 4242)
    assert "another user (uid 4242)" in failures(environment)[0][1]
    assert failures({**environment, "RAY_ADDRESS": address}) == []


def test_a_folder_in_which_ray_cannot_work_is_named(folder: Path) -> None:
    longest = SOCKET_BYTES - len(f"/ray/{SESSION}")
    fits = Path("/" + "x" * (longest - 1))
    assert check_folder(fits / "ray", {})[0] == "ok"
    verdict, _, text = check_folder(Path(f"{fits}x") / "ray", {})
    assert (verdict, "1 bytes too long" in text) == ("fail", True)
    (folder / "ray").write_text("a file")
    [(_, text)] = failures({"RAY_TMPDIR": str(folder), "RAY_ADDRESS": "local"})
    assert text.startswith(f"{folder}/ray is no folder: set RAY_TMPDIR to a short")
    assert failures({"RAY_TMPDIR": "here", "RAY_ADDRESS": "local"})


def test_a_folder_of_another_user_is_named(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("becoming another user needs root")
    (folder / "ray").mkdir(mode=0o755)
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(0o755)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from digipath_ray.distributed.surroundings import check_folder\n"
        "os.setuid(65534)\n"
        "print(check_folder(Path(sys.argv[1]), {})[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "ray")],
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{folder}/ray is of uid 0, not writable for you"
    assert said in done.stdout, done.stderr


def test_without_shared_memory_ray_is_told_where_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = folder / "shm"
    verdict, _, text = check_shared_memory(Path("/tmp/ray"), nowhere)
    assert (verdict, str(nowhere) in text) == ("warn", True)
    monkeypatch.setattr("digipath_ray.distributed.surroundings.SHARED_MEMORY", nowhere)
    monkeypatch.setattr(connecting, "SHARED_MEMORY", nowhere)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    settings = local_settings(Allowance(cores=1e9, memory=1 << 62))
    assert settings["_plasma_directory"] == f"{folder}/ray"
    assert settings["object_store_memory"] >= 80 << 20


def test_proxies_are_named_where_they_matter(folder: Path) -> None:
    address = f"127.0.0.1:{serve(SETTINGS)}"
    proxy = {"RAY_TMPDIR": str(folder), "http_proxy": "http://proxy:3128"}

    def said(**more: str) -> tuple[str, str]:
        found = {w: (v, t) for v, w, t in look_around({**proxy, **more})}
        return found["proxy"]

    assert said(RAY_ADDRESS="local")[0] == "ok"
    assert "no_proxy=$no_proxy,127.0.0.1" in said(RAY_ADDRESS=address)[1]
    assert said(RAY_ADDRESS=address, no_proxy="a,127.0.0.1")[0] == "ok"
    wants = said(RAY_ADDRESS="local", RAY_grpc_enable_http_proxy="1")
    assert wants[0] == "warn"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_waits_says_for_what_and_can_be_ended(
    number: signal.Signals, folder: Path
) -> None:
    # It greets as a head does, and answers nothing: Ray waits for minutes.
    address = f"127.0.0.1:{serve(SETTINGS)}"
    process = subprocess.Popen(
        [sys.executable, "-c", CONNECT],
        env={**os.environ, "RAY_ADDRESS": address, "RAY_TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = ""
        while "waiting for" not in line:
            line = process.stderr.readline()
            assert line, "it ended without a word"
        assert f"waiting for the Ray head at RAY_ADDRESS={address} since" in line
        process.send_signal(number)
        started = time.monotonic()
        code = process.wait(timeout=60)
        assert time.monotonic() - started < 30
        assert code != 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.ray
@pytest.mark.slow
def test_under_uv_run_nothing_is_uploaded(folder: Path) -> None:
    # A process that is called as uv would be: Ray looks at its parents' command lines.
    (folder / "run").write_text(
        "import subprocess\n"
        f"subprocess.run([{sys.executable!r}, '-c', {CONNECT!r}], check=True)\n"
    )
    done = subprocess.run(
        ["uv", "run", "digipath"],
        executable=sys.executable,
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == "{}", done.stderr
