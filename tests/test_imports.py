"""Imports point one way, and heavy libraries stay in their place."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "digipath_ray"
ORDER = (  # noqa: SIM905 - a line to read from left to right
    "words geometry overlap schema machine storage config slide annotations cohort "
    "tissue stain artifacts patches context heatmap networks run figures outcome "
    "pipeline planning evaluate report export mining training demo verify distributed "
    "viewer cli"
).split()
ONLY_IN = {
    "imblearn": {"outcome"},
    "skops": {"outcome"},
    "jinja2": {"report"},
    "highdicom": {"export"},
    "pydicom": {"export"},
    "openslide": {"slide", "viewer", "cli"},
    "starlette": {"viewer"},
    "uvicorn": {"viewer"},
    "ray": {"distributed"},
    "segmentation_models_pytorch": {"networks"},
    "torch": {"networks", "training", "distributed", "cli"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms() -> dict[str, set[str]]:
    """Top-level module -> everything that it imports."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        found.setdefault(room, set()).update(imports(path))
    return found


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(rooms()) - {"__init__", "presets"} == set(ORDER)


def test_imports_point_left() -> None:
    wrong = [
        f"{room} imports {name}"
        for room, names in rooms().items()
        for name in names
        if room in ORDER and name.startswith("digipath_ray.")
        for target in [name.split(".")[1]]
        if target in ORDER and ORDER.index(target) > ORDER.index(room)
    ]
    assert wrong == []


def test_heavy_libraries_stay_in_their_place() -> None:
    wrong = [
        f"{room} imports {name}"
        for room, names in rooms().items()
        for name in names
        for library, places in ONLY_IN.items()
        if name.split(".")[0] == library and room not in places
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        # A task on a CPU.
        ("run.patch_table outcome.measure", "ray torch"),
        # A driver that lays the plan, and Ray's tasks that read and finish.
        ("distributed.run", "torch segmentation_models_pytorch timm"),
        ("distributed.fit_feed distributed.fit_samples", "torch"),
        # An actor, and a fit's worker, before they build a network.
        (
            "networks.predict training.fit",
            "segmentation_models_pytorch timm torch._dynamo",
        ),
    ],
)
def test_a_process_loads_no_library_that_it_does_not_use(
    modules: str, without: str
) -> None:
    names = ", ".join(f"digipath_ray.{name}" for name in modules.split())
    script = f"import sys, {names}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(out.stdout.split())
    assert {f"digipath_ray.{name}" for name in modules.split()} <= loaded
    assert loaded & set(without.split()) == set()


def test_every_public_name_is_there() -> None:
    import digipath_ray

    assert all(getattr(digipath_ray, name) for name in digipath_ray.__all__)
    assert not hasattr(digipath_ray, "nothing_of_the_kind")


def test_what_tests_share_lies_in_no_test_module() -> None:
    importing = re.compile(r"^\s*(from|import) tests\.test_", re.MULTILINE)
    tests = Path(__file__).parent.glob("*.py")
    assert [p.name for p in tests if importing.search(p.read_text("utf-8"))] == []
