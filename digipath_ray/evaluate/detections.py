"""Detections: tumor points with confidence, and their CSV files.

The challenge's file is a CSV per slide of confidence, x, y at level 0
(camelyon16.grand-challenge.org/Evaluation).
"""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from digipath_ray.run.finished import FinishedSlide
from digipath_ray.storage.files import publish

NMS_UM = 187.0
"""Suppression radius: 24 px of CAMELYON16's level 5, as in the authors' code."""
STOP_P = 0.5
"""Detections must exceed this probability, as in the authors' code."""
STEP = 4096
"""Candidates examined at once for the next unsuppressed one."""
CONFIDENCE = ("confidence", "p", "probability", "score")
X, Y = ("x", "x coordinate", "x_coordinate"), ("y", "y coordinate", "y_coordinate")


class Detection(NamedTuple):
    """A point, level-0 px, and its confidence of being tumor."""

    confidence: float
    x: int
    y: int


def find_detections(
    slide: FinishedSlide, *, radius_um: float = NMS_UM, stop_p: float = STOP_P
) -> list[Detection]:
    """Find the peaks of a heatmap, highest first (non-maximum suppression).

    The highest pixel becomes a detection at its center, pixels with centers within
    ``radius_um`` are suppressed, and so on down to ``stop_p``. Ties go to the topmost,
    then leftmost pixel. If the slide ends before the center of its last pixels, the
    detection is on its edge.

    Args:
        slide: slide with its heatmap.
        radius_um: suppression radius.
        stop_p: detections must exceed this probability.
    """
    heatmap = slide.heatmap
    p = heatmap.probability
    alive = (p > stop_p) & heatmap.covered
    index = np.flatnonzero(alive)
    order = index[np.argsort(-p.ravel()[index], kind="stable")]
    disc = _disc(radius_um / heatmap.mpp_x, radius_um / heatmap.mpp_y)
    found = []
    for row, col in _peaks(alive, order, disc):
        x = min(math.floor((col + 0.5) * slide.l0_per_hm_x), slide.width - 1)
        y = min(math.floor((row + 0.5) * slide.l0_per_hm_y), slide.height - 1)
        found.append(Detection(float(p[row, col]), x, y))
    return found


def _disc(radius_x: float, radius_y: float) -> NDArray[np.bool_]:
    """Elliptic neighborhood of the center pixel, radii in px."""
    rows, cols = math.floor(radius_y), math.floor(radius_x)
    y, x = np.ogrid[-rows : rows + 1, -cols : cols + 1]
    return np.asarray((x / radius_x) ** 2 + (y / radius_y) ** 2 <= 1)


def _peaks(
    alive: NDArray[np.bool_], order: NDArray[np.int64], disc: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Yield (row, col) of each pixel, in order, not suppressed by an earlier peak."""
    flat = alive.ravel()  # a view, so that later suppressions are visible
    start = 0
    while start < len(order):
        left = flat[order[start : start + STEP]]
        if not left.any():
            start += STEP
            continue
        start += int(left.argmax())
        row, col = divmod(int(order[start]), alive.shape[1])
        yield row, col
        _suppress(alive, row, col, disc)


def _suppress(
    alive: NDArray[np.bool_], row: int, col: int, disc: NDArray[np.bool_]
) -> None:
    top, left = row - disc.shape[0] // 2, col - disc.shape[1] // 2
    near = alive[max(top, 0) : top + disc.shape[0], max(left, 0) : left + disc.shape[1]]
    from_row, from_col = max(-top, 0), max(-left, 0)
    height, width = near.shape
    near &= ~disc[from_row : from_row + height, from_col : from_col + width]


def write_detections(path: Path, detections: Sequence[Detection]) -> None:
    """Write the challenge's CSV of a slide: confidence, x, y, no header."""
    with (
        publish(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(detections)


def read_detections(path: Path) -> list[Detection]:
    """Read the challenge's CSV of a slide.

    A header (p, x, y in any order, as in the organizers' later script) is accepted; an
    empty file has no detections.

    Raises:
        ValueError: not a CSV, or a line without three numbers or with a confidence
            outside 0 to 1; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"{path}: not a CSV in UTF-8: {e}") from e
    names = [cell.strip().lower() for cell in lines[0]] if lines else []
    headed = bool(names) and any(name in (*CONFIDENCE, *X, *Y) for name in names)
    order = _columns(path, names) if headed else (0, 1, 2)
    return [
        _parse(cells, order, f"{path}, line {number}")
        for number, cells in enumerate(lines, start=1)
        if any(cell.strip() for cell in cells) and not (headed and number == 1)
    ]


def _columns(path: Path, names: Sequence[str]) -> tuple[int, int, int]:
    """Column indices of confidence, x and y."""
    places = []
    for known in (CONFIDENCE, X, Y):
        found = [i for i, name in enumerate(names) if name in known]
        if len(found) != 1:
            raise ValueError(f"{path}: its columns must be p, x, y, not {names}")
        places.append(found[0])
    return places[0], places[1], places[2]


def _parse(cells: Sequence[str], order: tuple[int, int, int], where: str) -> Detection:
    try:
        confidence, x, y = (float(cells[i]) for i in order)
        if not 0 <= confidence <= 1:
            raise ValueError
        return Detection(confidence, math.floor(x), math.floor(y))
    except (ValueError, IndexError, OverflowError) as e:
        raise ValueError(
            f"{where}: {','.join(cells)!r}: must be confidence (0 to 1), x, y "
            "(level-0 px)"
        ) from e
