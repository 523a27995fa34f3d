"""Ground truth at the pixels of a finished slide's heatmap."""

from dataclasses import dataclass

import numpy as np

from digipath_ray.annotations import Account, Window
from digipath_ray.cohort.drawn import read_row
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.run.finished import Bools, FinishedSlide


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is true at a heatmap's pixels, bool [H, W] each.

    ``account`` says what the annotation holds; None without one.
    """

    tumor: Bools
    ignored: Bools
    account: Account | None = None


def read_truth(slide: FinishedSlide, spec: AnnotationSpec) -> Truth:
    """What the slide's annotation says at the center of each pixel of its heatmap.

    Args:
        slide: as the run left it.
        spec: how annotations are understood.

    Raises:
        SlideError: the annotation cannot be read, or has no tumor against the label.
    """
    if slide.record.annotation is None:
        nothing = np.zeros(slide.tissue.shape, np.bool_)
        return Truth(tumor=nothing, ignored=nothing)
    found = read_row(slide.record, slide, spec)
    height, width = slide.tissue.shape
    window = Window(
        0,
        0,
        width,
        height,
        l0_per_px_x=slide.l0_per_hm_x,
        l0_per_px_y=slide.l0_per_hm_y,
    )
    return Truth(
        tumor=found.tumor(window),
        ignored=found.ignored(window),
        account=found.account,
    )
