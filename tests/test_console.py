"""What is printed never ends a command, whatever it is printed to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slides import noise, write_pyramid

INFO = [sys.executable, "-c", "from digipath_ray.cli import main; main()", "info"]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    return write_pyramid(folder / "Gewebe µ 切片.tif", noise(256, 256), mpp=1.0)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_encoding_will_do(slide: Path, encoding: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*INFO, str(slide), "--mpp", "1"], env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"256 x 256 px" in done.stdout
    assert ("切片".encode() in done.stdout) == (encoding == "utf-8")


def test_a_pipe_that_is_closed_will_do(slide: Path) -> None:
    with subprocess.Popen(
        [*INFO, *[str(slide)] * 2, "--mpp", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout
        assert running.stderr
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_below_a_log_will_do(slide: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*INFO, str(slide), "--mpp", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode == 0
