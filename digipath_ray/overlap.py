"""Overlap of two sets of pixels, from their sizes."""


def dice(both: float, first: float, second: float) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|); 1 if both sets are empty.

    Args:
        both: size of the intersection: pixels, weights or an area.
        first: size of one set.
        second: size of the other.
    """
    total = first + second
    return 2 * both / total if total else 1.0
