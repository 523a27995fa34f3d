"""What a slide's heatmap is turned into."""

from dataclasses import dataclass
from typing import Literal

from digipath_ray.config.fields import check, check_choice, option

Ending = Literal["stage", "burden", "none"]
Refine = Literal["none", "crf", "random-walker", "contour"]

REFINING = ("refine", "refine_um", "refine_color", "refine_strength")
"""Fields of [outcome] that say how outlines are refined."""


@dataclass(frozen=True, kw_only=True)
class OutcomeSpec:
    """What a slide's heatmap is turned into; it can be recomputed without a GPU.

    Lesions, sizes and the burden are taken at ``threshold``, the features at the
    thresholds of Table 5.
    """

    outcome: Ending = option(
        "none", "what to conclude: metastasis types and pN stages, or tumor burden"
    )
    threshold: float = option(0.5, "probability from which a pixel counts as tumor")
    refine: Refine = option(
        "none",
        "move the outline of tumor to the slide's own colors: a conditional random "
        "field, random walks, or an active contour",
    )
    refine_um: float = option(20.0, "refine: how far a point pulls at others, um")
    refine_color: float = option(
        20.0, "refine: difference of R, G or B (0 to 255) that parts two tissues"
    )
    refine_strength: float = option(
        1.0, "refine: weight of colors and neighbors beside the probability"
    )
    stage_model: str | None = option(
        None, "a model of 'digipath stage fit' (.skops); default: the size rule"
    )
    nodes: int | None = option(
        None, "lymph nodes that every patient has; fewer make a stage incomplete"
    )
    min_lesion_um: float = option(40.0, "size rule: a shorter lesion is ignored")
    min_lesion_p: float = option(
        0.7, "size rule: a lesion whose highest probability is lower is ignored"
    )
    merge_um: float = option(75.0, "size rule: lesions closer than this are one")
    viable_close_um: float = option(
        160.0, "burden: gaps of the viable tumor up to this width are closed"
    )
    viable_open_um: float = option(
        120.0, "burden: specks of it up to this width are removed"
    )
    min_viable_mm2: float = option(
        0.5, "burden: a smaller piece of viable tumor is ignored"
    )
    refine_hull: bool = option(
        False, "burden: shrink the convex hull to the tumor by an active contour"
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice("outcome.outcome", self.outcome, Ending)
        ok = 0 < self.threshold < 1
        check(ok, "outcome.threshold", self.threshold, "between 0 and 1")
        check_choice("outcome.refine", self.refine, Refine)
        for name, most in (("um", 1000), ("color", 255), ("strength", 100)):
            value = getattr(self, f"refine_{name}")
            want = f"above 0, at most {most}"
            check(0 < value <= most, f"outcome.refine_{name}", value, want)
        ok = self.nodes is None or self.nodes >= 1
        check(ok, "outcome.nodes", self.nodes, "at least 1")
        ok = 0 <= self.min_lesion_p < 1
        check(ok, "outcome.min_lesion_p", self.min_lesion_p, "0 to 1")
        for name in ("min_lesion_um", "merge_um", "viable_close_um", "viable_open_um"):
            value = getattr(self, name)
            check(0 <= value < 1e5, f"outcome.{name}", value, "um, not negative")
        value = self.min_viable_mm2
        check(value >= 0, "outcome.min_viable_mm2", value, "must not be negative")
