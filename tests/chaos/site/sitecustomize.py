"""Runs in each process of a campaign when Python starts: slides come from a slow disk.

Each read waits CHAOS_READ_S, or as long as the file ``slow-disk`` in the folder
CHAOS_ORDERS says while it is there.
"""

import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

SLIDES = "digipath_ray.slide.open"


class SlowSlides(MetaPathFinder):
    """Finds one module as Python does, and slows it down once it is loaded."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module."""
        if name != SLIDES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_slowed(module: ModuleType) -> None:
            load(module)
            module.Slide.read = slowed(module.Slide.read)

        spec.loader.exec_module = load_slowed  # type: ignore[method-assign]
        return spec


def slowed(read: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but slow."""

    def wait_and_read(*arguments: Any, **options: Any) -> Any:
        order = Path(os.environ.get("CHAOS_ORDERS", ""), "slow-disk")
        try:
            seconds = float(order.read_text("utf-8"))
        except (OSError, ValueError):
            seconds = float(os.environ["CHAOS_READ_S"])
        time.sleep(seconds)
        return read(*arguments, **options)

    return wait_and_read


if "CHAOS_READ_S" in os.environ:
    sys.meta_path.insert(0, SlowSlides())
