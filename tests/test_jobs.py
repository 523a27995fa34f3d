"""The jobs, run directly and by ``ray job submit`` on a head with a token."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from digipath_ray.heatmap.file import read_heatmap
from tests.heads import ROOT, submit


@pytest.mark.ray
@pytest.mark.slow
def test_jobs_through_ray_job_submit_with_a_token(
    head: dict[str, str], job_cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--out", str(run), "--config", str(tmp_path / "config.toml")]
    prepared = submit(head, sys.executable, "prepare.py", str(job_cohort), *options)
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
    job_cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        *(sys.executable, str(ROOT / "jobs" / "overnight.py"), str(job_cohort)),
        *("--out", str(run), "--config", str(tmp_path / "config.toml")),
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "2 of 3 slides finished, 1 failed" in first.stdout
    assert pq.read_table(run / "failures.parquet")["slide_id"].to_pylist() == ["broken"]
    (job_cohort / "broken.tif").unlink()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 of 2 slides finished (2 were already), 0 failed" in second.stdout


@pytest.mark.parametrize("script", ["overnight", "prepare", "train"])
def test_jobs_take_slide_ids_as_their_commands_do(script: str, tmp_path: Path) -> None:
    """Both values are known; what is refused is the third, and then the slide."""
    said = {}
    for value in ("hash", "initials"):
        command = [sys.executable, str(ROOT / "jobs" / f"{script}.py")]
        command += [str(tmp_path / "none.svs"), "--out", str(tmp_path / "out")]
        done = subprocess.run(
            [*command, "--slide-ids", value],
            env={**os.environ, "DIGIPATH_ID_SECRET": "a secret of this test"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        said[value] = done.stderr
    assert "Invalid value for '--slide-ids'" in said["initials"]
    assert "Error:" in said["hash"]
    assert "--slide-ids" not in said["hash"]
