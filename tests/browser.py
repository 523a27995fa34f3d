"""A headless Chromium that says what a page asks for, complains of and looks like.

Spoken to by its own protocol over a pipe, so that no other package is needed.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root in a container has no other way
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


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


class Browser:
    """A running Chromium with one tab."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.process, self._to, self._back = process, to, back
        self._id, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events meanwhile are kept."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == self._id:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]
            self.events.append(said)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def _read(self, *, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], end - time.monotonic())
            assert ready, f"Chromium said nothing for {seconds} s"
            got = os.read(self._back, 1 << 20)
            assert got, "Chromium ended"
            self._rest += got
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str, *, width: int, dark: bool = False) -> None:
        """Open a page in a window so wide, and wait until it has loaded."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844 if width < 600 else 900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[theme])
        self.ask("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def photograph(self, path: Path, *, most_px: int = 16_000) -> None:
        """A PNG of the whole page, however long."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "scale": 1}
        clip["height"] = min(size["height"], most_px)
        shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def print_pdf(self, path: Path) -> None:
        """The page as it would be printed on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69}
        said = self.ask("Page.printToPDF", printBackground=False, **size)
        path.write_bytes(base64.b64decode(said["data"]))

    @property
    def complaints(self) -> list[Any]:
        """What the console was told since the page was opened."""
        return [e["params"] for e in self.events if e.get("method") in COMPLAINTS]

    @property
    def requests(self) -> set[str]:
        """What the page asked for, without the data it holds itself."""
        urls = (
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        )
        return {url for url in urls if not url.startswith("data:")}


@contextlib.contextmanager
def start_browser(chromium: str, profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block, whatever happens in it."""
    its_in, our_out = os.pipe()
    our_in, its_out = os.pipe()

    def take_pipes() -> None:
        # Chromium reads its commands from 3 and answers on 4.
        read, write = os.dup(its_in), os.dup(its_out)
        os.dup2(read, 3)
        os.dup2(write, 4)

    process = subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=take_pipes,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Browser(process, our_out, our_in)
    finally:
        process.kill()
        process.wait()
        os.close(our_out)
        os.close(our_in)
