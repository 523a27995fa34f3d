"""The jobs, run directly and by ``ray job submit`` on a head with a token."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from digipath_ray.heatmap import read_heatmap
from tests.slides import paint, write_pyramid

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
CONFIG = """
[tissue]
mask_mpp = 4.0
close_um = 20.0
open_um = 10.0
dilate_um = 10.0
min_tissue_mm2 = 0.001

[grid]
mpp = 1.0
patch_px = 64
stride_px = 32
downsample = 4

[[members]]
name = "a"
architecture = "FPN"
encoder = "tu-mobilenetv3_small_100"
weights = "random"

[[members]]
name = "b"
architecture = "FPN"
encoder = "tu-mobilenetv3_small_100"
weights = "random"
seed = 1
"""


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = np.full((256, 256, 3), 245, np.uint8)
        pixels[60:180, 40:200] = paint(rng.random((120, 160)))
        write_pyramid(folder / f"{name}.tif", pixels, mpp=1.0)
    (folder / "broken.tif").write_bytes(b"II*\0 and nothing more")
    (tmp_path / "config.toml").write_text(CONFIG)
    return folder


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that reaches a Ray head with token authentication."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    dashboard, port = free_port(), free_port()
    # The agent's ports are fixed unless told, and another Ray may have them.
    agent, agent_grpc, client = free_port(), free_port(), free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = [
        *(str(RAY), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"),
        *(f"--dashboard-port={dashboard}", "--object-store-memory=200000000"),
        f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--ray-client-server-port={client}",
        *("--temp-dir", f"/tmp/r{port}", "--disable-usage-stats"),
    ]
    # A process group of its own: "ray stop" would end every Ray of this machine.
    log = tmp_path / "head.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            start, env=environment, stdout=out, stderr=out, start_new_session=True
        ) as ray_head,
    ):
        try:
            wait_for_head(log)
            yield {
                **environment,
                "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            }
        finally:
            os.killpg(ray_head.pid, signal.SIGTERM)
            try:
                ray_head.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(ray_head.pid, signal.SIGKILL)
            shutil.rmtree(f"/tmp/r{port}", ignore_errors=True)


def wait_for_head(log: Path) -> None:
    for _ in range(240):
        if "Ray runtime started" in log.read_text():
            return
        time.sleep(0.5)
    pytest.fail(f"the head does not start: {log.read_text()}")


def submit(
    environment: dict[str, str], *entrypoint: str, tries: int = 10
) -> subprocess.CompletedProcess[str]:
    """A submitted job, as it ended; a new head takes none until its agent is up."""
    command = [str(RAY), "job", "submit", "--working-dir", str(ROOT / "jobs"), "--"]
    done = subprocess.run(
        [*command, *entrypoint],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if "submitted successfully" in done.stdout or tries == 1:
        return done
    time.sleep(3)
    return submit(environment, *entrypoint, tries=tries - 1)


@pytest.mark.ray
@pytest.mark.slow
def test_jobs_through_ray_job_submit_with_a_token(
    head: dict[str, str], cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--out", str(run), "--config", str(tmp_path / "config.toml")]
    prepared = submit(head, sys.executable, "prepare.py", str(cohort), *options)
    said = prepared.stdout + prepared.stderr
    assert "failed broken at prepare" in prepared.stdout, said
    assert prepared.returncode == 1, "a failing entrypoint fails the submission"
    assert sorted(p.stem for p in run.glob("patches/*.parquet")) == ["a", "b"]
    assert not list(run.glob("heatmaps/*"))

    segmented = submit(head, sys.executable, "segment.py", str(run))
    assert segmented.returncode == 1, "the broken slide is not forgotten"
    failed = pq.read_table(run / "failures.parquet")["slide_id"].to_pylist()
    assert failed == ["broken"], segmented.stdout
    assert pq.read_table(run / "outcomes.parquet")["slide_id"].to_pylist() == ["a", "b"]
    assert read_heatmap(run / "heatmaps" / "a.ome.tiff").channels == (
        "probability",
        "epistemic",
    )

    without = {k: v for k, v in head.items() if not k.startswith("RAY_AUTH")}
    refused = submit(
        {**without, "RAY_AUTH_MODE": "disabled"},
        *(sys.executable, "segment.py", str(run)),
        tries=1,
    )
    assert refused.returncode != 0
    assert (
        "401" in refused.stderr + refused.stdout
        or "auth" in (refused.stderr + refused.stdout).lower()
    )


@pytest.mark.ray
@pytest.mark.slow
def test_overnight_runs_directly_and_a_second_time_has_nothing_to_do(
    cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        *(sys.executable, str(ROOT / "jobs" / "overnight.py"), str(cohort)),
        *("--out", str(run), "--config", str(tmp_path / "config.toml")),
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "2 of 3 slides finished, 1 failed" in first.stdout
    assert pq.read_table(run / "failures.parquet")["slide_id"].to_pylist() == ["broken"]
    (cohort / "broken.tif").unlink()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 of 2 slides finished (2 were already), 0 failed" in second.stdout
