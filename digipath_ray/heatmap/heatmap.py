"""The map of a slide: its channels, where it was predicted, and its scale."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from digipath_ray.tissue.mask import Mask, at_centers

Map = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Heatmap:
    """What was found on one slide.

    A channel that was not estimated is absent, never 0; a pixel that no patch covers
    is 0 in every channel and has weight 0. In a cascade epistemic uncertainty is NaN
    where one member alone has seen the pixel.

    Attributes:
        channels: names in the order of ``data``; "probability" is always there.
        data: [channels, height, width].
        weight: [height, width], summed blending weight.
        mpp_x, mpp_y: um per heatmap px.
        refined: bool [height, width], tumor by an outline refined by the slide's
            colors, in place of a threshold; None if that was not asked for.
        refined_at: the threshold that it stands in for.
    """

    channels: tuple[str, ...]
    data: Map
    weight: Map
    mpp_x: float
    mpp_y: float
    refined: NDArray[np.bool_] | None = None
    refined_at: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if "probability" not in self.channels:
            raise ValueError(f"channels {self.channels}: no probability among them")
        if self.data.shape != (len(self.channels), *self.weight.shape):
            raise ValueError(
                f"data has shape {self.data.shape}, not {len(self.channels)} channels "
                f"of the weight's {self.weight.shape}"
            )
        if self.refined is not None and self.refined.shape != self.weight.shape:
            raise ValueError(
                f"refined has shape {self.refined.shape}, not the heatmap's "
                f"{self.weight.shape}"
            )
        for name in ("mpp_x", "mpp_y"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be positive")

    @property
    def width(self) -> int:
        """Heatmap px from left to right."""
        return int(self.weight.shape[1])

    @property
    def height(self) -> int:
        """Heatmap px from top to bottom."""
        return int(self.weight.shape[0])

    def channel(self, name: str) -> Map | None:
        """The map [height, width] of a channel; None if it was not estimated."""
        if name not in self.channels:
            return None
        return cast(Map, self.data[self.channels.index(name)])

    @property
    def probability(self) -> Map:
        """Tumor probability, 0 to 1."""
        return cast(Map, self.data[self.channels.index("probability")])

    @property
    def aleatoric(self) -> Map | None:
        """Variance over test-time augmentations (eq. 4)."""
        return self.channel("aleatoric")

    @property
    def epistemic(self) -> Map | None:
        """Variance over members (eq. 5); NaN where one member only saw the pixel."""
        return self.channel("epistemic")

    @property
    def thresholded(self) -> "Heatmap":
        """The same map, whose outlines are those of thresholds alone."""
        return replace(self, refined=None, refined_at=None)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Bool [height, width]: pixels that a patch covers."""
        return np.asarray(self.weight > 0)

    def is_refined(self, threshold: float) -> bool:
        """Whether the outline of a threshold was refined."""
        return self.refined is not None and threshold == self.refined_at

    def above(self, threshold: float) -> NDArray[np.bool_]:
        """Bool [height, width]: covered pixels with probability >= threshold.

        Where the outline of that threshold was refined, what lies inside it.
        """
        if self.refined is not None and self.is_refined(threshold):
            return self.refined & self.covered
        return np.asarray((self.probability >= threshold) & self.covered)

    def area_mm2(self, threshold: float) -> float:
        """Area of :meth:`above`."""
        pixels = np.count_nonzero(self.above(threshold))
        return float(pixels * self.mpp_x * self.mpp_y / 1e6)


def on_heatmap(mask: Mask, heatmap: Heatmap) -> NDArray[np.bool_]:
    """The mask [H, W] at the heatmap's pixels, nearest by position in um."""
    return at_centers(
        mask.array,
        heatmap.weight.shape,
        mpp=(mask.mpp_x, mask.mpp_y),
        onto=(heatmap.mpp_x, heatmap.mpp_y),
    )
