"""A slide's row of the SLIDES table: what the manifest, its file and its tissue say."""

from collections.abc import Mapping
from typing import Any

from digipath_ray.cohort.read import SlideRow
from digipath_ray.patches import Grid
from digipath_ray.slide.open import Slide, SlideInfo
from digipath_ray.tissue.find import Tissue
from digipath_ray.tissue.quality import Quality

MPP_FLAG = 0.03
"""Relative deviation of the effective mpp from which a slide is flagged."""
FROM_MANIFEST = (
    "patient_id",
    "node",
    "label",
    "split",
    "annotation",
    "exhaustive",
    "mask",
)
"""Columns of the SLIDES table that the manifest alone says."""


def slide_record(
    row: SlideRow, slide: Slide, grid: Grid, tissue: Tissue
) -> dict[str, Any]:
    """A slide's row of the SLIDES table, but for its patches and chunks."""
    info, frame, quality = slide.info, grid.frame, tissue.quality
    mpp_x, mpp_y = info.need_mpp()
    return {
        "slide_id": row.slide_id,
        "path": row.path,
        **manifest_record(row),
        "width": info.width,
        "height": info.height,
        "mpp_x": mpp_x,
        "mpp_y": mpp_y,
        "mpp_source": info.mpp_source,
        "level_downsamples": list(info.level_downsamples),
        "level": frame.level,
        "effective_mpp_x": frame.mpp_x,
        "effective_mpp_y": frame.mpp_y,
        "upsampled": frame.upsampled,
        "tissue_mm2": quality.tissue_mm2,
        "ink": quality.ink,
        "ink_over_tissue": quality.ink_over_tissue,
        "blur": quality.blur,
        "black": quality.black,
        "blank": quality.blank,
        "mpp_deviation": mpp_deviation(grid),
        "seen_by": None,  # the driver knows the members
        "qc": slide_flags(slide.info, grid, tissue.quality),
    }


def slide_flags(info: SlideInfo, grid: Grid, quality: Quality) -> list[str]:
    """Names of all that a person should look at before they trust the slide."""
    raised = {
        "mpp deviation": mpp_deviation(grid) > MPP_FLAG,
        "mpp differs from file": differs_from_file(info),
        "upsampled": grid.frame.upsampled,
    }
    return [*quality.flags, *(name for name, up in raised.items() if up)]


def mpp_deviation(grid: Grid) -> float:
    """How far the effective mpp is from the one asked for, as a fraction of that."""
    effective = (grid.frame.mpp_x, grid.frame.mpp_y)
    return max(abs(m / grid.spec.mpp - 1) for m in effective)


def differs_from_file(info: SlideInfo) -> bool:
    """Whether the mpp that somebody gave contradicts the file's."""
    if info.mpp_x is None or info.file_mpp is None:
        return False
    return abs(info.mpp_x / info.file_mpp - 1) > MPP_FLAG


def manifest_record(row: SlideRow) -> dict[str, Any]:
    """What the manifest alone says of a slide, as in the SLIDES table."""
    return {name: getattr(row, name) for name in FROM_MANIFEST}


def row_of(slide: Mapping[str, Any]) -> SlideRow:
    """The manifest's row of a slide, of its row of the SLIDES table."""
    return SlideRow(
        slide_id=slide["slide_id"],
        path=slide["path"],
        mpp=slide["mpp_x"] if slide["mpp_source"] == "manifest" else None,
        **{name: slide[name] for name in FROM_MANIFEST},
    )
