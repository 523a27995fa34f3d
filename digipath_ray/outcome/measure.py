"""What a slide's heatmap comes to: lesions, features, burden, and its OUTCOMES row.

Measured as the slide lands, and again, without a GPU, from a finished run.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath_ray.artifacts.kinds import KINDS, Indexes
from digipath_ray.config.run import REFINING, OutcomeSpec, RunConfig
from digipath_ray.config.toml import Tree, to_tree
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.burden import Burden, measure_burden
from digipath_ray.outcome.classes import Classes, find_classes
from digipath_ray.outcome.features import HIGH, LOW, measure_features
from digipath_ray.outcome.lesions import Lesions, find_lesions
from digipath_ray.outcome.metastasis.size_rule import (
    LesionGroup,
    SizeRule,
    merge_lesions,
)
from digipath_ray.run.finished import FinishedSlide
from digipath_ray.tissue.quality import FLAG_MISSED, FLAG_MISSED_MM2

Bools = NDArray[np.bool_]

UNSURE = (0.3, 0.7)
"""Probabilities between which a pixel could be either."""
LESIONS_LISTED = 50
"""Lesions of a slide that its record lists, the largest; its GeoJSON holds all."""
IN_ARTIFACT = 0.5
"""Part of a lesion's area from which it lies in artifacts."""
NOISY = "noisy heatmap"
"""Quality flag of a slide with more lesions than are measured."""
ON_GLASS = "tumor outside the tissue"
"""Quality flag of a slide on which much tumor was found where no tissue is."""
NOT_BY_SLIDE = ("stage_model", "nodes")
"""Fields of [outcome] that change no slide's measures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideOutcome:
    """What was measured on a slide.

    Attributes:
        row: its row of the OUTCOMES table, as far as the heatmap tells.
        lesions: at the ensemble's threshold.
        groups: of those, fragments of one metastasis together.
        counted: numbers of those that the size rule counts.
        features: the 32 of Table 5; None unless stages are asked for.
        burden: None unless it is asked for.
        hidden: number of a lesion -> its part in artifacts and the kind that most of it
            lies in, by size; None if they were not looked for.
        classes: None unless the heatmap keeps them.
    """

    row: dict[str, Any]
    lesions: Lesions
    groups: tuple[LesionGroup, ...]
    counted: frozenset[int]
    features: dict[str, float] | None
    burden: Burden | None
    hidden: dict[int, tuple[float, str | None]] | None = None
    classes: Classes | None = None

    def artifact(self, number: int) -> str | None:
        """The kind of artifact that a lesion lies in, by half and more."""
        share, kind = (self.hidden or {}).get(number, (0.0, None))
        return kind if share >= IN_ARTIFACT else None

    @property
    def listed(self) -> list[dict[str, Any]]:
        """The largest lesions as records."""
        sought = self.hidden is not None
        return [
            {
                **asdict(lesion),
                "counted": lesion.number in self.counted,
                **({"artifact": self.artifact(lesion.number)} if sought else {}),
            }
            for lesion in self.lesions.lesions[:LESIONS_LISTED]
        ]


def size_rule(spec: OutcomeSpec) -> SizeRule:
    """The size rule with a config's numbers."""
    return SizeRule(
        min_extent_um=spec.min_lesion_um,
        min_p=spec.min_lesion_p,
        merge_um=spec.merge_um,
    )


def measured_with(config: RunConfig) -> Tree:
    """The settings that a slide's measures depend on; a change recomputes them."""
    spec = to_tree(config)["outcome"]
    idle = REFINING if config.outcome.refine == "none" else ()
    return {n: v for n, v in spec.items() if n not in (*NOT_BY_SLIDE, *idle)}


def measure_slide(slide: FinishedSlide, config: RunConfig) -> SlideOutcome:
    """Measure a slide's heatmap.

    Args:
        slide: its heatmap and tissue.
        config: of the run; ``outcome`` says what is measured.
    """
    spec, threshold = config.outcome, config.outcome.threshold
    record, heatmap = slide.record, slide.heatmap
    lesions = find_lesions(heatmap, threshold)
    at: dict[float, Lesions] = {}
    if heatmap.refined is None:
        at[threshold] = lesions
    # Table 5 is of probabilities: a refined outline has no part in it.
    for p in (HIGH, LOW) if spec.outcome == "stage" else ():
        if p not in at:
            # Only the list is needed: the pixels of all would fill memory.
            at[p] = find_lesions(heatmap.thresholded, p).without_pixels()
    groups = merge_lesions(lesions, spec.merge_um)
    sized = size_rule(spec).apply(groups)
    noisy = any(found.left_out for found in (lesions, *at.values()))
    flags = {NOISY: noisy, ON_GLASS: is_on_glass(slide, threshold)}
    features = burden = None
    if spec.outcome == "stage":
        tissue_mm2 = record.tissue_mm2
        features = measure_features(at[HIGH], at[LOW], tissue_mm2=tissue_mm2)
    if spec.outcome == "burden":
        burden = measure_burden(heatmap, slide.tissue, spec, threshold=threshold)
    classes = find_classes(heatmap, slide.predicted)
    row = {
        "slide_id": record.slide_id,
        "patient_id": record.patient_id,
        "tumor_mm2": heatmap.area_mm2(threshold),
        "tissue_mm2": record.tissue_mm2,
        "lesions": len(lesions.lesions) + lesions.left_out,
        "largest_um": sized.largest_um,
        "score": sized.score,
        "upsampled": record.upsampled,
        "qc": [*record.qc, *(flag for flag, up in flags.items() if up)],
        "seen_by": None if record.seen_by is None else list(record.seen_by),
        "patches": record.patches,
        **{f"artifact_{kind}": share for kind, share in record.artifacts.items()},
        **measure_maps(slide),
        **(burden_row(burden) if burden is not None else {}),
        **(classes.row if classes is not None else {}),
    }
    return SlideOutcome(
        row=row,
        lesions=lesions,
        groups=groups,
        counted=frozenset(n for group in sized.counted for n in group),
        features=features,
        burden=burden,
        hidden=find_hidden(lesions, slide.artifacts),
        classes=classes,
    )


def is_on_glass(slide: FinishedSlide, threshold: float) -> bool:
    """Whether tumor outside the tissue is as much as tissue missed would be flagged.

    Patches that touch the tissue show glass, too. What a network takes for tumor there
    counts in areas and lesions: it knows no glass, or the mask lacks tissue.
    """
    heatmap = slide.heatmap
    outside = np.count_nonzero(heatmap.above(threshold) & ~slide.tissue)
    mm2 = outside * heatmap.mpp_x * heatmap.mpp_y / 1e6
    return bool(mm2 > max(FLAG_MISSED_MM2, FLAG_MISSED * slide.record.tissue_mm2))


def find_hidden(
    lesions: Lesions, artifacts: Indexes | None
) -> dict[int, tuple[float, str | None]] | None:
    """Number of a lesion -> its part in artifacts, and their most frequent kind.

    Args:
        lesions: of the slide.
        artifacts: uint8 [H, W], index of a kind at every heatmap px; None: not known.
    """
    if artifacts is None:
        return None
    found: dict[int, tuple[float, str | None]] = {}
    for lesion in lesions.lesions:
        top, left, bottom, right = lesion.box
        inside = artifacts[top:bottom, left:right][lesions.pixels(lesion.number)]
        counts = np.bincount(inside, minlength=len(KINDS) + 1)
        share = float(1 - counts[0] / len(inside))
        kind = KINDS[int(counts[1:].argmax())].name if share else None
        found[lesion.number] = share, kind
    return found


def measure_maps(slide: FinishedSlide) -> dict[str, float | None]:
    """Highest probability and how uncertain it is, over the tissue predicted."""
    heatmap, over = slide.heatmap, slide.predicted
    found: dict[str, float | None] = {
        "probability_max": float(heatmap.probability[over].max(initial=0.0)),
        "unsure": mean_unsure(heatmap, over),
    }
    for name in ("aleatoric", "epistemic"):
        values = getattr(heatmap, name)
        # NaN: seen by one member of a cascade.
        known = [] if values is None else values[over & ~np.isnan(values)]
        found[f"{name}_mean"] = float(np.mean(known)) if len(known) else None
        found[f"{name}_max"] = float(np.max(known)) if len(known) else None
    return found


def mean_unsure(heatmap: Heatmap, over: Bools) -> float | None:
    """Mean epistemic variance where the probability could go either way.

    0 where nothing could; None where it was not estimated.
    """
    values = heatmap.epistemic
    if values is None:
        return None
    low, high = UNSURE
    either = over & (heatmap.probability >= low) & (heatmap.probability <= high)
    if not either.any():
        return 0.0
    known = values[either & ~np.isnan(values)]
    return float(known.mean()) if known.size else None


def burden_row(burden: Burden) -> dict[str, Any]:
    """The burden's columns of the OUTCOMES table."""
    return {
        "burden": burden.burden,
        "viable_mm2": burden.viable_mm2,
        "whole_mm2": burden.whole_mm2,
        "burden_note": burden.note,
        "whole_from": burden.whole_from,
    }
