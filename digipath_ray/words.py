"""Formatting of numbers and texts for people."""

import re
from collections.abc import Iterable, Sequence

DOT = "  \N{MIDDLE DOT}  "
TIMES = "\N{MULTIPLICATION SIGN}"
AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"


def shorten(text: str, length: int) -> str:
    """Shorten a text to ``length`` characters by eliding its middle."""
    if len(text) <= length:
        return text
    keep = max(length - 1, 2)
    return text[: keep - keep // 2] + "\N{HORIZONTAL ELLIPSIS}" + text[-(keep // 2) :]


CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # of terminals, without line feed and tab
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # of lines and text direction
    "\ud800-\udfff]"  # halves of characters: of file names that are no UTF-8
)
"""Characters that act on a terminal or page instead of being shown."""


def printable(text: str) -> str:
    r"""A text of unknown origin as it can be shown: ``\x1b`` for an escape character.

    Line feeds and tabs stay.
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


IN_URL = re.compile(r"(://)[^/\s@]+@")
SIGNED = re.compile(
    r"([?&](?:x-(?:amz|goog)-[\w-]+|\w*signature|sig|\w*token|\w*secret|\w*key(?:id)?)=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
"""Credentials in URLs: ``user:password@``, and what a signed URL is signed with."""


def redacted(text: str) -> str:
    """A text with ``***`` in place of the credentials of URLs."""
    return SIGNED.sub(r"\1***", IN_URL.sub(r"\1***@", text))


def format_length(length_um: float) -> str:
    """A length with its unit: '500 um' below a millimeter, else '2 mm'."""
    if length_um >= 1000:
        return f"{length_um / 1000:.3g} mm"
    return f"{length_um:.3g} \N{MICRO SIGN}m"


def format_area(area_mm2: float) -> str:
    """An area with its unit: um2 below a thousandth of a mm2, else mm2."""
    if 0 < area_mm2 < 1e-3:
        return f"{area_mm2 * 1e6:.3g} \N{MICRO SIGN}m\N{SUPERSCRIPT TWO}"
    return f"{area_mm2:.3g} mm\N{SUPERSCRIPT TWO}"


SLOW_RATE = 0.1
"""Rates below this, patches per second, are shown as seconds per patch."""


def format_rate(rate: float) -> str:
    """Patches per second as ``12.3/s``, a slow rate as ``14 s/patch``."""
    slow = 0 < rate < SLOW_RATE
    return f"{1 / rate:.0f} s/patch" if slow else f"{rate:.1f}/s"


def format_duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``7.3 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(nbytes: float) -> str:
    """``812 KB``, ``3.1 MB`` or ``1.2 GB``, in steps of 1024."""
    for power, unit in ((3, "GB"), (2, "MB")):
        if nbytes >= 1024**power:
            return f"{nbytes / 1024**power:,.1f} {unit}"
    return f"{nbytes / 1024:.0f} KB"


PLURALS = {
    "micrometastasis": "micrometastases",
    "macrometastasis": "macrometastases",
    "patch": "patches",
    "negative": "negative",
    "isolated tumor cells": "isolated tumor cells",
}


def count(number: int, noun: str) -> str:
    """``1 slide``, ``2 slides``, ``3 patches``; with thousands separators."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """Plural of a noun after a number; adjectives and mass nouns are unchanged."""
    return noun if number == 1 else PLURALS.get(noun, f"{noun}s")


def listed(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key under which ``node_10`` comes after ``node_2``."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(p)) if p.isascii() and p.isdigit() else (1, p) for p in parts]


def name_some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
