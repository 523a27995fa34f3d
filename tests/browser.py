"""Chromium through Playwright, its tabs, and the run that the page's tests look at.

A plugin of pytest, which tests/conftest.py registers.
"""

import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from digipath_ray.outcome.qupath import feature, write_features
from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer import app as viewer_app
from digipath_ray.viewer.collection.entries import key_of
from tests.finished_runs import HEIGHT, WIDTH, failure_of
from tests.viewing import viewed_run, viewing, write_gradient


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def need_chromium() -> str:
    """The browser; where CI=true it is installed if it is not there, else skipped."""
    if find_chromium() is None and os.environ.get("CI") == "true":
        install_chromium()
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


def install_chromium() -> None:
    if shutil.which("apt-get") is None:
        pytest.fail("CI looks at pages in Chromium, but there is none")
    quiet = {"check": True, "capture_output": True, "timeout": 500}
    subprocess.run(["apt-get", "update"], **quiet)
    packages = ["chromium", "fonts-dejavu-core"]
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    subprocess.run(
        command, **quiet, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    )


def unless(missing: bool, why: str) -> None:
    if missing and os.environ.get("CI") == "true":
        pytest.fail(why)
    if missing:
        pytest.skip(why)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Ends with the module: while Playwright runs, no other event loop may."""
    executable = need_chromium()
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=flags)
        yield found
        found.close()


@dataclass
class Tab:
    """A page and what it told and asked for.

    Attributes:
        page: it.
        size: of the slide that it shows, in level-0 px of 1 um.
        complaints: errors that it wrote to the console.
        messages: all that it wrote there.
        requests: the addresses that it asked for.
    """

    page: Page
    size: tuple[float, float] = WIDTH, HEIGHT
    complaints: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message: ConsoleMessage) -> None:
        self.messages.append(message.text)
        if message.type == "error":  # a breach of the content policy is one, too
            self.complaints.append(message.text)

    def open_slide(self, address: str, slide_id: str) -> None:
        """Open it, and wait until nothing more is to come."""
        self.page.goto(f"{address}#/slide/{key_of(slide_id)}")
        expect(self.page.locator(".scale-bar")).to_be_visible()
        self.settle()

    def settle(self) -> None:
        """Until the picture has stood still for half a second."""
        before, same = b"", 0
        for _ in range(80):
            # A JPEG, as a PNG of the whole view takes the browser far longer.
            now = self.page.locator(".views").screenshot(type="jpeg")
            same = same + 1 if now == before else 0
            if same == 3:
                return
            before = now
            self.page.wait_for_timeout(170)
        raise AssertionError("the picture does not come to rest")

    def place(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Where points of a slide that is shown whole lie on the page."""
        box = self.page.locator(".pane").first.bounding_box()
        assert box is not None
        width, height = self.size
        scale = min(box["width"] / width, box["height"] / height)
        return (
            box["x"] + box["width"] / 2 + (x - width / 2) * scale,
            box["y"] + box["height"] / 2 + (y - height / 2) * scale,
        )

    def color(self, point: tuple[float, float]) -> tuple[int, ...]:
        """The color on the page at a point of the slide."""
        x, y = self.place(*point)
        return color_of(self.page.screenshot(), int(x), int(y))

    def slide(self, role: str, value: float, *, layer: str = "a/probability") -> None:
        """Move a slider, and wait for the next two frames."""
        self.page.locator(f"[data-layer='{layer}'] [data-role={role}]").evaluate(
            "(slider, value) => { slider.value = value;"
            " slider.dispatchEvent(new Event('input'));"
            " return new Promise(done => requestAnimationFrame("
            "() => requestAnimationFrame(done))); }",
            str(value),
        )

    def save(self, press: Callable[[], None], folder: Path) -> Path:
        """The file that pressing something downloads."""
        with self.page.expect_download() as waiting:
            press()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


def color_of(png: bytes, x: int, y: int) -> tuple[int, ...]:
    return tuple(pixels_of(png)[y, x].tolist())


def pixels_of(png: bytes) -> NDArray[np.int64]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"), np.int64)


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield Tab(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two finished slides and one that failed."""
    folder = tmp_path_factory.mktemp("viewed")
    slide = write_gradient(folder / "slide.tif")
    run = viewed_run(folder, slide, failures=[failure_of("bad", "p1")])
    outline = feature(
        shapely.box(800, 800, 2200, 2200),
        class_name="Tumor",
        color=(200, 0, 0),
        name="lesion 1",
        measurements={},
    )
    write_features(run.lesions("with"), [outline])
    return run


@pytest.fixture(scope="module")
def address(run: RunDirectory) -> Iterator[str]:
    unless(not (viewer_app.PAGE / "index.html").is_file(), "the page is not built")
    with viewing(run.root) as (found, _):
        yield found
