"""Classes on a slide: the area of each, and their outlines for QuPath.

A pixel is of the class whose probability, the mean over members and test-time
augmentations, is highest. Tumor is measured apart, by its threshold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath_ray.config.classes import kept_classes
from digipath_ray.heatmap.classes import Color, Indexes, color_of, likeliest
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.lesions import MOST, NEIGHBORS, keep_largest
from digipath_ray.outcome.qupath import feature, outline
from digipath_ray.run.finished import FinishedSlide

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """Classes of a slide.

    Attributes:
        names: of all classes that the members know.
        mm2: area of each.
        indexes: [H, W], number of the class of each heatmap px, from 1; 0 outside the
            tissue that was predicted.
    """

    names: tuple[str, ...]
    mm2: tuple[float, ...]
    indexes: Indexes

    @property
    def row(self) -> dict[str, Any]:
        """Their columns of the OUTCOMES table."""
        return {"classes": list(self.names), "class_mm2": list(self.mm2)}


def find_classes(heatmap: Heatmap, over: Bools) -> Classes | None:
    """The classes of a slide; None if its heatmap does not keep them.

    Args:
        heatmap: of the slide.
        over: bool [H, W], the tissue that was predicted.
    """
    found = likeliest(heatmap)
    if found is None:
        return None
    names = kept_classes(heatmap.channels)
    found[~over] = 0
    pixels = np.bincount(found.ravel(), minlength=len(names) + 1)[1:]
    px_mm2 = heatmap.mpp_x * heatmap.mpp_y / 1e6
    return Classes(names=names, mm2=tuple((pixels * px_mm2).tolist()), indexes=found)


def class_features(slide: FinishedSlide, found: Classes) -> Iterator[dict[str, Any]]:
    """A GeoJSON feature of each class that is there, its outlines in level-0 px."""
    for place, (name, mm2) in enumerate(zip(found.names, found.mm2, strict=True)):
        pixels = found.indexes == place + 1
        if pixels.any():
            yield _class_feature(slide, name, pixels, mm2, color_of(name, place))


def _class_feature(
    slide: FinishedSlide, name: str, pixels: Bools, mm2: float, color: Color
) -> dict[str, Any]:
    labels = np.zeros(pixels.shape, np.int32)
    pieces = int(ndimage.label(pixels, NEIGHBORS, output=labels))
    text = name
    if pieces > MOST:  # noise, whose outlines nobody could look at
        keep_largest(labels, pieces)
        pixels = labels > 0
        text = f"{name} (the {MOST:,} largest of {pieces:,} pieces)"
    shape = outline(
        pixels,
        x=0.0,
        y=0.0,
        l0_per_px_x=slide.l0_per_hm_x,
        l0_per_px_y=slide.l0_per_hm_y,
        max_x=slide.width,
        max_y=slide.height,
    )
    return feature(
        shape,
        class_name=name,
        color=color,
        name=text,
        measurements={"Area mm^2": mm2, "Pieces": float(pieces)},
    )
