"""Numbers and types as the page says them."""

import re
from collections.abc import Iterable

from digipath_ray.figures.figure import say_mm2, say_um

__all__ = [
    "GRAVER",
    "NONE",
    "TYPES",
    "count",
    "listed",
    "natural",
    "plural",
    "say_length",
    "say_mm2",
    "say_p",
    "share",
    "small",
]

NONE = "\N{EN DASH}"
TYPES = {
    "negative": "negative",
    "itc": "isolated tumor cells",
    "micro": "micrometastasis",
    "macro": "macrometastasis",
}
"""A slide's type (Table 2) in words, the graver the later."""
GRAVER = {name: i for i, name in enumerate(TYPES)}
PLURALS = {
    "micrometastasis": "micrometastases",
    "macrometastasis": "macrometastases",
    "patch": "patches",
    "negative": "negative",
    "isolated tumor cells": "isolated tumor cells",
}


def count(number: int, noun: str) -> str:
    """``1 slide``, ``2 slides``, ``3 patches``; thousands set apart."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """The noun as it stands after a number; an adjective or mass noun as it is."""
    return noun if number == 1 else PLURALS.get(noun, f"{noun}s")


def listed(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def share(fraction: float) -> str:
    """A fraction in percent, two digits that count."""
    return f"{100 * fraction:.2g} %" if fraction < 0.995 else f"{100 * fraction:.0f} %"


def say_p(probability: float) -> str:
    """A probability; 1.00 only if it rounds to nothing less."""
    return f"{probability:.2f}" if probability < 0.995 else f"{probability:.4f}"


def small(value: float) -> str:
    """A variance: two digits that count."""
    return "0" if value == 0 else f"{value:.2g}"


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key under which ``node_10`` comes after ``node_2``."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(p)) if p.isascii() and p.isdigit() else (1, p) for p in parts]


def say_length(length_um: float) -> str:
    """A lesion's length; none of no lesion."""
    return say_um(length_um) if length_um > 0 else NONE
