"""The packages of the core install and their licenses: ``docs/licenses.md``.

python -m tests.licenses > docs/licenses.md

What ``pip install .`` brings, without extras, as it is installed here; read from the
packages' own metadata.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
STATED = {
    "openslide-bin": "LGPL-2.1-only and others",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "skops": "MIT",
}
"""What a package's metadata leaves open, from its license files."""
NAMES = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Other/Proprietary License": "proprietary",
    "NVIDIA Proprietary Software": "NVIDIA proprietary",
}
"""Classifiers by their usual short names."""
EXPLAINED = {
    "openslide-python": "OpenSlide's Python interface, used unchanged.",
    "openslide-bin": "OpenSlide and the libraries it needs (GLib, cairo, gdk-pixbuf, "
    "...) as shared libraries.",
    "shapely": "Its wheel holds GEOS (LGPL-2.1-only) as a shared library.",
    "numpy": "Its wheel holds libquadmath (LGPL-2.1-or-later) and libgfortran "
    "(GPL-3.0-or-later WITH GCC-exception-3.1) as shared libraries; the exception lets "
    "programs of any license use the latter.",
    "scipy": "As numpy.",
    "imagecodecs": "Its wheel holds libgomp (GPL-3.0-or-later WITH GCC-exception-3.1) "
    "as a shared library.",
}
"""Packages that are, or whose wheels hold, LGPL or GPL with an exception."""
COPYLEFT = re.compile(r"(?<![A-Za-z])A?GPL|Affero|(?<!Lesser )General Public License")
LESSER = re.compile(r"LGPL|Lesser General Public|Library General Public")


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """An installed package, its version and its license."""

    name: str
    version: str
    license: str

    @property
    def is_copyleft(self) -> bool:
        """Whether its license would be the license of what is built on it."""
        return COPYLEFT.search(LESSER.sub("", self.license)) is not None

    @property
    def is_lesser(self) -> bool:
        """Whether it may be used unchanged and replaced by its user (LGPL)."""
        return LESSER.search(self.license) is not None


def license_of(found: Distribution) -> str:
    """The license that a package states, in short."""
    name = canonicalize_name(found.metadata["Name"])
    if name in STATED:
        return STATED[name]
    if expression := found.metadata.get("License-Expression"):
        return str(expression)
    classes = [
        text.split(" :: ")[-1]
        for text in found.metadata.get_all("Classifier") or []
        if text.startswith("License ::") and text != "License :: OSI Approved"
    ]
    if classes:
        return ", ".join(NAMES.get(c, c) for c in classes)
    text = (found.metadata.get("License") or "").strip()
    return text.splitlines()[0][:60] if text else "not stated"


def core_packages() -> list[Package]:
    """Every package that the core install needs and that is installed, sorted."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names: set[str] = set()
    todo = [Requirement(text) for text in wanted["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        need = todo.pop()
        key = (canonicalize_name(need.name), frozenset(need.extras))
        if key in seen:
            continue
        seen.add(key)
        if _installed(key[0]) is not None:
            names.add(key[0])
            todo += _needs(*key)
    return sorted(
        Package(name=name, version=found.version, license=license_of(found))
        for name in names
        if (found := _installed(name)) is not None
    )


@cache
def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:  # of another platform
        return None


def _needs(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    found = _installed(name)
    for text in (found.requires or []) if found else []:
        need = Requirement(text)
        if need.marker is None or any(
            need.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            yield need


def table(packages: list[Package]) -> str:
    """The packages as a table in Markdown."""
    rows = [f"| {p.name} | {p.version} | {p.license} |" for p in packages]
    return "\n".join(["| package | version | license |", "|---|---|---|", *rows])


def page(packages: list[Package]) -> str:
    """The page docs/licenses.md."""
    title = "# Licenses of the core install\n\n"
    explained = [f"| {name} | {text} |" for name, text in EXPLAINED.items()]
    lesser = "\n".join(["| package | what is LGPL |", "|---|---|", *explained])
    return f"{title}{INTRODUCTION}\n{lesser}\n\n{table(packages)}\n"


INTRODUCTION = """\
digipath_ray is Apache-2.0. `pip install .` brings the packages below, on Linux with
CPython 3.11; written by `python -m tests.licenses > docs/licenses.md` from the
packages' own metadata. `tests/test_licenses.py` checks what is installed.

**No package is GPL or AGPL.** LGPL libraries are loaded as shared libraries, unchanged,
and can be replaced by their user, which is what the LGPL asks for. NVIDIA's packages
come with PyTorch for CUDA on Linux, under NVIDIA's own license; PyTorch's CPU build
does without them. The viewer's page holds OpenSeadragon (BSD-3-Clause), whose license
is beside it in `THIRD_PARTY_LICENSES`.
"""

if __name__ == "__main__":
    print(page(core_packages()), end="")
