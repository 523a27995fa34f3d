"""A cohort in a bucket overnight: submitted, killed half-way, submitted again."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage import bucket
from digipath_ray.storage.files import place, read_bytes, read_table
from tests.heads import CONFIG, ROOT, submit
from tests.runs import write_slide

SLIDES = 12


def fill(url: str, folder: Path) -> None:
    """Eleven slides, one that is damaged, and a config."""
    for number in range(SLIDES - 1):
        slide = write_slide(folder / f"{number:02}.tif", width=512, height=400, seed=9)
        bucket.upload(slide, place(url) / "slides" / slide.name)
    bucket.put(place(url) / "slides" / "damaged.tif", b"II*\0 and nothing more")
    bucket.put(place(url) / "config.toml", CONFIG.encode())


def done_versions(run: RunDirectory) -> dict[str, str]:
    """Each finished slide's record, by its version in the bucket."""
    listed = bucket.list_objects(run.root / "done")
    return {found.url: found.version.etag for found in listed}


def drivers(url: str) -> list[psutil.Process]:
    """Processes that run the job itself, not those that sent or watch it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:2] == ["overnight.py"] and any(url in word for word in words):
            found.append(process)
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_night_in_a_bucket_killed_half_way_and_submitted_again(
    head: dict[str, str], bucket_url: str, tmp_path: Path
) -> None:
    fill(bucket_url, tmp_path)
    run = RunDirectory(f"{bucket_url}/run")
    job = [
        *(sys.executable, "overnight.py", f"{bucket_url}/slides"),
        *("--config", f"{bucket_url}/config.toml", "--out", str(run.root)),
        *("--outcome", "stage"),
    ]
    command = ["ray", "job", "submit", "--working-dir", str(ROOT / "jobs"), "--", *job]
    with subprocess.Popen(
        command, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        until = time.monotonic() + 300
        while len(done_versions(run)) < 3 and first.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        for process in drivers(bucket_url):
            process.kill()
        said, _ = first.communicate(timeout=60)
    assert first.returncode != 0, said
    before = done_versions(run)
    assert 3 <= len(before) < SLIDES - 1, said
    assert (run.root / "lease.json").exists(), "its holder had no time to give it up"

    again = submit(head, *job)
    said = again.stdout + again.stderr
    assert again.returncode == 1, said
    assert "11 of 12 slides finished" in said
    assert "failed damaged at prepare" in said
    after = done_versions(run)
    assert len(after) == SLIDES - 1
    assert before.items() <= after.items(), "no finished slide is made again"

    assert read_table(run.failures)["slide_id"].to_pylist() == ["damaged"]
    assert read_table(run.outcomes).num_rows == SLIDES - 1
    assert b"</html>" in read_bytes(run.report)
    heatmaps = [o.url for o in bucket.list_objects(run.root / "heatmaps")]
    assert len(heatmaps) == SLIDES - 1
    assert not (run.root / "lease.json").exists()
