"""A Ray head of its own with a token, and jobs submitted to it."""

import contextlib
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

import pytest

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def token_head(folder: Path, **more: str) -> Iterator[dict[str, str]]:
    """The environment that reaches a Ray head with token authentication.

    Args:
        folder: for its token and its log.
        more: what the head's processes find in their environment.
    """
    token = folder / "token"
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
        "RAY_worker_niceness": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
        **more,
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
    log = folder / "head.log"
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
                ray_head.wait(timeout=3)
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


CONFIG = """
[tissue]
mask_mpp = 4.0
close_um = 20.0
open_um = 10.0
margin_um = 10.0
min_tissue_mm2 = 0.001

[grid]
mpp = 1.0
patch_px = 64
stride_px = 32
downsample = 4

[[members]]
name = "a"
architecture = "tests.tiny:Tiny"
options = { seconds = 0.05 }
weights = "random"

[[members]]
name = "b"
architecture = "tests.tiny:Tiny"
options = { seconds = 0.05 }
weights = "random"
seed = 1
"""
