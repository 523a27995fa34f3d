"""What must be true of a run after all faults."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import TEMPORARY
from digipath_ray.verify.verify import verify_run
from tests.chaos.cohort import SICK, Cohort
from tests.viewing import client, url_of

ROUNDING = 1e-5
ENDED_S = 90.0
"""How long processes of an ended run may take to go."""


def check_run(cohort: Cohort, out: Path) -> Iterator[str]:
    """Yield what is wrong with a run that has ended."""
    run = RunDirectory(out)
    found = verify_run(run)
    yield from (f"verify: {f.where}: {f.what}" for f in found.faults)
    yield from (f"verify: {slide_id} is missing" for slide_id in found.missing)
    done = run.read_done()
    for slide_id, path in cohort.healthy.items():
        if slide_id not in done:
            yield f"{slide_id} is healthy, and not finished"
            continue
        heatmap, truth = read_heatmap(run.heatmap(slide_id)), cohort.heatmap_of(path)
        if not np.array_equal(heatmap.weight, truth.weight):
            yield f"{slide_id}: its patches were not counted once"
        elif not np.allclose(heatmap.data, truth.data, atol=ROUNDING):
            yield f"{slide_id}: its heatmap is another"
    failures = {failure.slide_id: failure.error for failure in run.read_failures()}
    for slide_id, word in SICK.items():
        if word not in failures.get(slide_id, ""):
            yield f"{slide_id}: fails with {failures.get(slide_id)!r}, not {word!r}"
    yield from (f"{i} failed: {failures[i]}" for i in failures.keys() - SICK.keys())
    yield from (str(path) for path in out.rglob(f"{TEMPORARY}*"))


def check_viewer(out: Path) -> Iterator[str]:
    """Yield where the viewer shows something else than the records of the run."""
    done = RunDirectory(out).read_done().keys()
    with client(out) as browser:
        shown = browser.get("/api/cohort").json()["slides"]
        finished = {row["slide_id"] for row in shown if row["status"] == "done"}
        if finished != done:
            yield f"the viewer shows as finished {finished ^ done} more or less"
        for slide_id in done:
            answer = browser.get(url_of(slide_id))
            if answer.status_code != 200:
                yield f"the viewer answers {answer.status_code} for {slide_id}"


def check_processes(
    family: list[psutil.Process], *, seconds: float = ENDED_S
) -> Iterator[str]:
    """Yield processes of a run that has ended and that are still there."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    for process in alive:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield f"process {process.pid} is left: {' '.join(process.cmdline())}"
        except psutil.NoSuchProcess:
            continue
