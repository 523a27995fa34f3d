"""Formatting of numbers and types on the page."""

from digipath_ray.words import (
    count,
    format_area,
    format_length,
    listed,
    natural,
    plural,
)

__all__ = [
    "GRAVER",
    "NONE",
    "TYPES",
    "count",
    "format_area",
    "format_lesion_length",
    "format_probability",
    "listed",
    "natural",
    "percent",
    "plural",
    "small",
]

NONE = "\N{EN DASH}"
TYPES = {
    "negative": "negative",
    "itc": "isolated tumor cells",
    "micro": "micrometastasis",
    "macro": "macrometastasis",
}
"""Names of slide types (Table 2), by increasing severity."""
GRAVER = {name: i for i, name in enumerate(TYPES)}


def percent(fraction: float) -> str:
    """Format a fraction in percent, two significant digits."""
    return f"{100 * fraction:.2g} %" if fraction < 0.995 else f"{100 * fraction:.0f} %"


def format_probability(probability: float) -> str:
    """Format a probability; 1.00 only if it rounds to nothing less."""
    return f"{probability:.2f}" if probability < 0.995 else f"{probability:.4f}"


def small(value: float) -> str:
    """Format a variance, two significant digits."""
    return "0" if value == 0 else f"{value:.2g}"


def format_lesion_length(length_um: float) -> str:
    """Format a lesion's length; a dash without lesion."""
    return format_length(length_um) if length_um > 0 else NONE
