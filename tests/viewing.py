"""What the tests of the viewer share: small runs that are opened, and their clients."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.status import Status, timestamp
from digipath_ray.schema import SLIDES
from digipath_ray.viewer.app import make_app
from digipath_ray.viewer.collection.collection import Collection, open_collection
from digipath_ray.viewer.collection.entries import key_of
from digipath_ray.viewer.collection.snapshot import Snapshot
from tests.finished_runs import (
    HEIGHT,
    WIDTH,
    Made,
    done_record,
    draw_heatmap,
    slide_row,
    write_maps,
    write_run,
)
from tests.slides import write_pyramid

DIGIPATH = [sys.executable, "-c", "from digipath_ray.cli import main; main()"]
ADDRESS = "http://127.0.0.1:8000"
POST = {"X-Digipath": "1", "Origin": ADDRESS}


def write_gradient(path: Path, *, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """A slide of 1 um/px whose red grows to the right and whose green downward."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = 90
    return write_pyramid(path, pixels, mpp=1.0, downsamples=(1, 4), tile=256)


def viewed_run(folder: Path, slide: Path | None = None, **options: Any) -> RunDirectory:
    """A run of two finished slides, one with a lesion of 0.95 around (1500, 1500)."""
    path = str(slide or folder / "absent.tif")
    made = [
        Made(
            slide_id="with",
            lesions=((1500, 1500, 700, 0.95),),
            outcome={"metastasis": "micro"},
            slide={"path": path, "patient_id": "p1", "node": "1"},
        ),
        Made(
            slide_id="without",
            outcome={"metastasis": "negative"},
            slide={"path": path, "patient_id": "p1", "node": "2"},
        ),
    ]
    return write_run(folder / "run", made, **options)


def client(opened: Collection | RunDirectory | Path, **options: Any) -> TestClient:
    """A browser on this machine that looks at a collection."""
    if isinstance(opened, RunDirectory):
        opened = open_collection([opened.root])
    elif isinstance(opened, Path):
        opened = open_collection([opened])
    app = make_app(opened, **options)
    return TestClient(app, base_url=ADDRESS)


def url_of(slide_id: str, rest: str = "") -> str:
    return f"/api/slides/{key_of(slide_id)}{rest}"


def decode(data: bytes) -> NDArray[np.uint8]:
    """An image's pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@contextlib.contextmanager
def viewing(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``digipath view`` as a process: its address, with the token, and the process."""
    command = [*DIGIPATH, "view", *map(str, arguments), "--port", "0", "--no-browser"]
    with tempfile.TemporaryDirectory() as state:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": state},
        )
        assert process.stdout is not None
        try:
            yield address_in(process.stdout, Path(state)), process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(90)
            finally:
                process.kill()
                process.stdout.close()


def address_in(lines: Iterable[str], state: Path) -> str:
    """The address that was printed; with the token, if that is in a file."""
    said = ""
    for line in lines:
        said += line
        if found := re.search(r"http://\S+", line):
            assert "token=" not in said
            for file in state.glob("digipath_ray/*.address"):
                assert str(file) in said
                return file.read_text().strip()
            return found[0]
    raise AssertionError(said)


def status_of(**said: Any) -> Status:
    """That of a run whose driver lives: this process."""
    now = timestamp(time.time())
    return Status(
        **{
            "phase": "segment",
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "started": now,
            "updated": now,
            "slides": 3,
            **said,
        }
    )


def tell(run: RunDirectory, **said: Any) -> None:
    run.write_json(run.status, asdict(status_of(**said)))


def payload(snapshot: Snapshot, slide_id: str) -> dict[str, Any]:
    return snapshot.slides[key_of(slide_id)]


def begin_run(folder: Path) -> RunDirectory:
    """A run of which three slides are prepared and none is finished yet."""
    run = write_run(folder / "run")
    run.outcomes.unlink()
    run.failures.unlink()
    rows = [slide_row(Made(slide_id=f"s{i}")) for i in range(3)]
    run.write_table(run.slides, rows, SLIDES)
    tell(run)
    return run


def land(run: RunDirectory, made: Made) -> None:
    """A slide is finished, as the run writes it: its record last."""
    heatmap = draw_heatmap(made)
    write_maps(run, made.slide_id, heatmap)
    run.write_json(run.done(made.slide_id), done_record(made, heatmap))


INSIDE, OUTSIDE = (1500, 1500), (3000, 2500)
"""In the lesion of 0.95 that the slide "with" has, and far from it; level-0 px."""


def read_number(text: str, unit: str) -> float:
    """A measurement of about 1 mm may be said in um as well."""
    number, said = text.split()
    if said != unit:
        assert said == unit.replace("mm", "\N{MICRO SIGN}m")
        return float(number.replace(",", "")) / 1000
    return float(number)


UNNAMED = """[...document.querySelectorAll('button, a, input, select, [role=slider]')]
  .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.title
    || (e.labels && [...e.labels].some(l => l.textContent.trim()))))
  .map(e => e.outerHTML)"""


def data_of(event: str) -> Any:
    return json.loads(event.partition("data: ")[2])
