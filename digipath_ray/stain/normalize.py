"""Pixels of a slide in the stains of another: the map, and numpy's way to apply it.

The networks' device applies it in :mod:`digipath_ray.networks.stains`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath_ray.stain.color import Floats, Pixels, density, lms_to_lab, rgb_to_lms
from digipath_ray.stain.estimate import StainError, StainEstimate, angle_between

MOST_FACTOR = 4.0
"""A stain is made at most so many times denser or paler. Seen among GlaS: 2.8."""
MOST_TURN = 40.0
"""Degrees that a stain may be from the reference's. Seen among GlaS: 30."""
MOST_SHIFT = 0.15
"""Of mean alpha and beta, log10 units. Seen among GlaS: 0.07."""

MACENKO_TARGET = StainEstimate(
    method="macenko",
    values=(0.5626, 0.7201, 0.4062, 0.2159, 0.8012, 0.5581, 1.9705, 1.0308),
)
"""What Macenko's code brings hematoxylin and eosin to (its HERef and maxCRef)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StainMap:
    """A map of pixels; ``turn`` of logarithms, between two matrices of light.

    light = inner @ (value + 1) / 256; logarithms (base e) = turn @ log(light) + shift;
    value = 256 outer @ exp(logarithms) - 1, rounded and cut to 0..255.

    Attributes:
        inner, turn, outer: [3, 3], of a pixel as a column.
        shift: [3].
        of_density: ``inner`` and ``outer`` are the identity, and ``shift`` is 0.
    """

    inner: NDArray[np.float64]
    turn: NDArray[np.float64]
    shift: NDArray[np.float64]
    outer: NDArray[np.float64]
    of_density: bool


def map_stains(found: StainEstimate, reference: StainEstimate) -> StainMap:
    """The map of a slide's stains onto those of a reference.

    ``macenko``: each stain becomes the reference's, scaled so that the 99th percentile
    of its concentration is the reference's; what is of neither stain stays as much.
    ``reinhard``: means and deviations of l, alpha and beta become the reference's.

    Raises:
        StainError: they are too different to be the same stains.
        ValueError: they are of two methods.
    """
    if found.method != reference.method:
        raise ValueError(
            f"stains by {found.method} cannot be mapped onto some by {reference.method}"
        )
    check_alike(found, reference)
    unit = np.eye(3)
    if found.method == "macenko":
        scale = np.diag([*(reference.strengths / found.strengths), 1.0])
        turn = _frame(reference) @ scale @ np.linalg.inv(_frame(found))
        zero = np.zeros(3)
        return StainMap(inner=unit, turn=turn, shift=zero, outer=unit, of_density=True)
    mean, deviation = found.moments
    target_mean, target_deviation = reference.moments
    scale = target_deviation / deviation
    lab, lms = lms_to_lab(), rgb_to_lms()
    shift = lab.T @ (target_mean - scale * mean) * np.log(10)
    return StainMap(
        inner=lms,
        turn=lab.T @ np.diag(scale) @ lab,
        shift=shift,
        outer=np.asarray(np.linalg.inv(lms), np.float64),
        of_density=False,
    )


def check_alike(found: StainEstimate, reference: StainEstimate) -> None:
    """Refuse stains that are not the reference's kind.

    Raises:
        StainError: says what differs.
    """
    if found.is_brown != reference.is_brown:
        kinds = ("brown (DAB)", "red (eosin)")
        one, other = kinds if found.is_brown else kinds[::-1]
        raise StainError(f"beside hematoxylin it is {one}, the reference {other}")
    if found.method == "reinhard":
        (mean, deviation), (target_mean, target_deviation) = (
            found.moments,
            reference.moments,
        )
        _check_factors(target_deviation / deviation, ("l", "alpha", "beta"))
        shift = np.abs(target_mean - mean)[1:].max()
        if shift > MOST_SHIFT:
            raise StainError(
                f"mean colors {shift:.2f} from the reference's are of other stains"
            )
        return
    names = ("hematoxylin", "the other stain")
    for name, a, b in zip(names, found.vectors, reference.vectors, strict=True):
        turn = angle_between(a, b)
        if turn > MOST_TURN:
            raise StainError(f"{name} is {turn:.0f} degrees from the reference's")
    _check_factors(reference.strengths / found.strengths, names)


def _check_factors(factors: NDArray[np.float64], names: tuple[str, ...]) -> None:
    for name, factor in zip(names, factors, strict=True):
        if not 1 / MOST_FACTOR <= factor <= MOST_FACTOR:
            raise StainError(f"{name} would be scaled by {factor:.2g}")


def _frame(stains: StainEstimate) -> NDArray[np.float64]:
    """[3, 3]: hematoxylin, the other stain and what is of neither, as columns."""
    rest = np.cross(*stains.vectors)
    return np.stack([*stains.vectors, rest / np.linalg.norm(rest)], axis=1)


def normalize_pixels(pixels: Pixels, by: StainMap) -> Pixels:
    """Pixels uint8 [..., 3] mapped, as uint8."""
    if by.of_density:
        logs = -_mixed(density(pixels), by.turn)
        light = np.exp(logs)
    else:
        inner = _mixed((pixels.astype(np.float32) + 1) / np.float32(256), by.inner)
        logs = _mixed(np.log(inner), by.turn) + by.shift.astype(np.float32)
        light = _mixed(np.exp(logs), by.outer)
    # Cut before it is rounded: what is beyond any value has no uint8.
    values = np.clip(light * np.float32(256) - np.float32(1), 0, 255)
    return np.rint(values).astype(np.uint8)


def _mixed(values: Floats, matrix: NDArray[np.float64]) -> Floats:
    """Columns [..., 3] times a matrix, added up in the order that the device takes."""
    m = matrix.astype(np.float32)
    a, b, c = values[..., 0], values[..., 1], values[..., 2]
    return np.stack([a * r[0] + b * r[1] + c * r[2] for r in m], axis=-1)
