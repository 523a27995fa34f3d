"""What the core install brings: licenses that its users can live with."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.licenses import EXPLAINED, STATED, Package, core_packages

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "licenses.md").read_text("utf-8")
INSTALLED = core_packages()
ROW = re.compile(r"^\| ([\w.-]+) \| ([\w.+-]+) \| (.+) \|$", re.MULTILINE)


def test_no_package_of_the_core_install_is_gpl() -> None:
    assert len(INSTALLED) > 80
    assert [p for p in INSTALLED if p.is_copyleft] == []


def test_every_package_states_a_license() -> None:
    assert [p for p in INSTALLED if p.license == "not stated"] == []


def test_every_lgpl_package_is_explained() -> None:
    assert {p.name for p in INSTALLED if p.is_lesser} <= EXPLAINED.keys()
    assert all(f"| {name} | {text} |" in PAGE for name, text in EXPLAINED.items())


def test_the_page_lists_every_direct_dependency_and_no_gpl() -> None:
    listed = {name: license for name, _, license in ROW.findall(PAGE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    direct = {canonicalize_name(Requirement(d).name) for d in project["dependencies"]}
    assert direct <= listed.keys()
    assert STATED.keys() <= listed.keys()
    assert not any(
        Package(name=n, version="", license=told).is_copyleft
        for n, told in listed.items()
    )


@pytest.mark.parametrize(
    ("text", "copyleft", "lesser"),
    [
        ("GPL-3.0-or-later", True, False),
        ("MIT AND GPL-2.0-only", True, False),
        ("AGPL-3.0", True, False),
        ("GNU Affero General Public License v3", True, False),
        ("GNU General Public License v2 (GPLv2)", True, False),
        ("LGPL-2.1-only", False, True),
        ("GNU Lesser General Public License v3 (LGPLv3)", False, True),
        ("LGPL-2.1-only AND GPL-3.0-only", True, True),
        ("Apache-2.0", False, False),
        ("MPL-2.0 AND MIT", False, False),
    ],
)
def test_which_licenses_are_which(text: str, copyleft: bool, lesser: bool) -> None:
    package = Package(name="x", version="1", license=text)
    assert (package.is_copyleft, package.is_lesser) == (copyleft, lesser)
