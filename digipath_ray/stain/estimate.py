"""The two stains of a slide, estimated from pixels of its tissue.

``macenko``: Macenko et al. 2009 (doi 10.1109/ISBI.2009.5193250): the directions of the
two stains in optical density and how dense each is. ``reinhard``: Reinhard et al. 2001
(doi 10.1109/38.946629): mean and deviation in l-alpha-beta. Nothing assumes eosin: of
the two directions hematoxylin is the one that absorbs more red.

An estimate that cannot be right is none: :class:`StainError` says why. The limits were
set on 124 GlaS fields, an Aperio slide and drawn ones; each comment has the range seen.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from digipath_ray.stain.color import Floats, Pixels, density, to_lab

StainMethod = Literal["macenko", "reinhard"]
METHODS: tuple[StainMethod, ...] = get_args(StainMethod)
LENGTHS: dict[StainMethod, int] = {"macenko": 8, "reinhard": 7}
"""Numbers of an estimate."""

LEAST_DENSITY = 0.3
"""Optical density (length of its three channels) below which a pixel is glass. Macenko
asks 0.15 of each channel, which pure eosin, hardly absorbing red, does not reach: on
GlaS that keeps 56 % of pixels, this 82 %."""
EXTREME_PERCENT = 1.0
"""Angles and concentrations beyond this percentile are noise (Macenko's alpha)."""
BLACK_DENSITY, BLACK_SPREAD = 0.92, 0.2
"""Ink and dust: all channels at least this dense, within this share of the densest. At
most 0.2 % of a GlaS field, 0.1 % of the Aperio slide."""
BLOOD = (1.4, 0.5, 0.3)
"""Blood and red ink: green at least this dense; blue at least, red at most this share
of it."""
LEAST_PX = 2000
"""Fewer pixels of tissue tell too little: 0.008 mm2 at 2 um/px."""
LEAST_RATIO = 1.25
"""Variance in the plane of both stains, across the first direction, by that out of the
plane: of less, the plane is that of noise. Below it the directions of GlaS images turn
by up to 18 degrees when all density is scaled by 0.6, above by 4."""
LEAST_ANGLE = 10.0
"""Directions closer than this, degrees, are of one stain. Seen: up to 7 of one, from 16
to 33 of two in GlaS, 38 in the Aperio slide."""
MOST_ANGLE = 75.0
SAME_ANGLE = 1.0
"""Two stains of a reference that are closer cannot be told apart."""
MOST_VALUE = 100
"""Of any number of an estimate; seen: 3.4."""
LEAST_RED = 0.25
"""Hematoxylin's density of red, of a length of 1. Seen: 0.39 to 0.72."""
LEAST_COMPONENT = -0.1
"""A stain absorbs light in every channel; below this it does not."""
NO_TWO_STAINS = "the colors are of no two stains that absorb light"
LEAST_DEVIATION = 0.01
"""Of l, log10 units: less is one color."""


class StainError(ValueError):
    """Why the stains of a slide cannot be told."""


@dataclass(frozen=True, kw_only=True)
class StainEstimate:
    """The stains of a slide, or those that slides are brought to.

    Attributes:
        method: how they are described.
        values: ``macenko``: hematoxylin's optical density of red, green and blue, of
            length 1; that of the other stain; and the 99th percentile of each one's
            concentration (base e). ``reinhard``: means of l, alpha and beta; their
            standard deviations (base 10); and blue by green density of the stain beside
            hematoxylin, as Macenko's method finds it.
    """

    method: StainMethod
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: not as described.
        """
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise ValueError(f"stain method {self.method!r}: choose from {known}")
        n, values = LENGTHS[self.method], np.array(self.values, np.float64)
        if values.shape != (n,) or not (np.abs(values) <= MOST_VALUE).all():
            raise ValueError(
                f"{self.method} = {self.values!r:.200}: {n} numbers up to {MOST_VALUE}"
            )
        last = values[-2:] if self.method == "macenko" else values[3:]
        if not (last[:3] > 0).all() or last[-1] < 0:
            raise ValueError(
                f"{self.method} = {self.values!r:.200}: the last {len(last)} are "
                "positive"
            )
        if self.method == "macenko":
            lengths = np.linalg.norm(values[:6].reshape(2, 3), axis=1)
            if np.abs(lengths - 1).max() > 0.01:
                raise ValueError(
                    f"macenko = {self.values!r:.200}: the first and the second three "
                    "are stains of length 1"
                )
            if angle_between(*self.vectors) < SAME_ANGLE:
                raise ValueError(f"macenko = {self.values!r:.200}: one stain, twice")
            if self.values[0] < self.values[3]:
                raise ValueError(
                    f"macenko = {self.values!r:.200}: hematoxylin, which absorbs more "
                    "red, comes first: exchange the first three with the second, and "
                    "the last two"
                )

    def describe(self) -> str:
        """In words."""
        groups = [self.values[i : i + 3] for i in (0, 3)]
        one, two = (" ".join(f"{v:.2f}" for v in group) for group in groups)
        if self.method == "reinhard":
            return f"l, alpha, beta: mean {one}, deviation {two}"
        other = "brown stain" if self.is_brown else "eosin or alike"
        first, second = self.strengths
        return f"hematoxylin {one} (x {first:.2f}), {other} {two} (x {second:.2f})"

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps([self.method, *self.values])

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The estimate of :meth:`to_text`."""
        method, *values = json.loads(text)
        return cls(method=method, values=tuple(values))

    @property
    def vectors(self) -> NDArray[np.float64]:
        """``macenko``: [2, 3], hematoxylin and the other stain."""
        return np.array(self.values[:6]).reshape(2, 3)

    @property
    def strengths(self) -> NDArray[np.float64]:
        """``macenko``: [2], 99th percentile of each one's concentration."""
        return np.array(self.values[6:])

    @property
    def moments(self) -> NDArray[np.float64]:
        """``reinhard``: [2, 3], means and deviations of l, alpha and beta."""
        return np.array(self.values[:6]).reshape(2, 3)

    @property
    def is_brown(self) -> bool:
        """The other stain absorbs blue most, as DAB does; eosin absorbs green most."""
        if self.method == "reinhard":
            return self.values[6] > 1
        _, green, blue = self.vectors[1]
        return bool(blue > green)


def estimate_stains(pixels: Pixels, method: StainMethod) -> StainEstimate:
    """The stains of tissue.

    Args:
        pixels: RGB uint8 [n, 3]; glass, ink, blood and black among them are left out.
        method: of the estimate.

    Raises:
        StainError: they cannot be told; says why.
    """
    kept = pixels[is_stained(pixels)]
    if len(kept) < LEAST_PX:
        raise StainError(
            f"only {len(kept)} of {len(pixels)} pixels sampled are stained tissue, "
            f"fewer than {LEAST_PX}"
        )
    stains = _macenko(density(kept))
    return stains if method == "macenko" else _reinhard(to_lab(kept), stains)


def is_stained(pixels: Pixels) -> NDArray[np.bool_]:
    """Bool [n]: pixels [n, 3] that are neither glass, black nor blood."""
    red, green, blue = (density(pixels[:, i]) for i in range(3))
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(red, green), blue)
    black = (least > BLACK_DENSITY) & (most - least < BLACK_SPREAD * most)
    dense, blue_share, red_share = BLOOD
    blood = (green > dense) & (blue > blue_share * green) & (red < red_share * green)
    length = np.sqrt(red**2 + green**2 + blue**2)
    return np.asarray((length >= LEAST_DENSITY) & ~black & ~blood)


def _macenko(densities: Floats) -> StainEstimate:
    """The estimate from optical densities [n, 3].

    Raises:
        StainError: the directions are of no two stains.
    """
    points = densities.astype(np.float64)
    variances, directions = np.linalg.eigh(np.cov(points.T))
    if variances[1] < LEAST_RATIO * max(variances[0], 0):
        raise StainError("its second stain is no more than noise")
    plane = directions[:, [2, 1]]
    # Angles from the mean's direction: none is near 180 degrees, where they would jump.
    x, y = points.mean(axis=0) @ plane
    if np.hypot(x, y) < 1e-6:
        raise StainError(NO_TWO_STAINS)
    plane = plane @ np.array([[x, -y], [y, x]]) / np.hypot(x, y)
    along, across = (points @ plane).T
    angles = np.arctan2(across, along)
    ends = np.percentile(angles, [EXTREME_PERCENT, 100 - EXTREME_PERCENT])
    stains = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    stains = stains[np.argsort(-stains[:, 0])]
    _check_directions(stains)
    stains = np.maximum(stains, 0)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    amounts = points @ np.linalg.pinv(stains)
    strengths = np.percentile(amounts, 100 - EXTREME_PERCENT, axis=0)
    if strengths.min() < 1e-3:
        raise StainError(NO_TWO_STAINS)
    return _of("macenko", [*stains.ravel(), *strengths])


def _check_directions(stains: NDArray[np.float64]) -> None:
    """Refuse directions [2, 3] that are of no two stains."""
    angle = angle_between(*stains)
    if angle < LEAST_ANGLE:
        raise StainError(f"all tissue has one color: {angle:.0f} degrees between them")
    if angle > MOST_ANGLE or stains.min() < LEAST_COMPONENT:
        raise StainError(NO_TWO_STAINS)
    if stains[0, 0] < LEAST_RED:
        raise StainError("neither of its two colors is hematoxylin, which absorbs red")


def _reinhard(lab: Floats, stains: StainEstimate) -> StainEstimate:
    """The estimate from l, alpha, beta [n, 3]; the kind of stain from Macenko's."""
    values = lab.astype(np.float64)
    means, deviations = values.mean(axis=0), values.std(axis=0)
    if deviations[0] < LEAST_DEVIATION or deviations.min() < 1e-4:
        raise StainError("all tissue has one color")
    _, green, blue = stains.vectors[1]
    kind = min(blue / max(green, 0.01), 10)
    return _of("reinhard", [*means, *deviations, kind])


def _of(method: StainMethod, values: Iterable[float]) -> StainEstimate:
    """The estimate of numbers, rounded so that its text gives the same again."""
    return StainEstimate(
        method=method, values=tuple(round(float(v), 6) for v in values)
    )


def angle_between(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Angle of two directions [3], degrees."""
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def median_estimate(estimates: Sequence[StainEstimate]) -> StainEstimate:
    """The median of slides' estimates, number by number; directions of length 1 again.

    Raises:
        ValueError: there is none, or they are of several methods.
    """
    (method,) = {e.method for e in estimates}
    values = np.median([e.values for e in estimates], axis=0)
    if method == "macenko":
        stains = values[:6].reshape(2, 3)
        stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return _of(method, values)
