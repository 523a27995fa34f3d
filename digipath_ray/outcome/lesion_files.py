"""Lesions, classes and burden of a slide as files for QuPath."""

from collections.abc import Iterator
from typing import Any

from digipath_ray.annotations.outlines import Shape
from digipath_ray.outcome.classes import class_features
from digipath_ray.outcome.lesions import Lesion
from digipath_ray.outcome.measure import Bools, SlideOutcome
from digipath_ray.outcome.qupath import feature, outline, write_features
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide
from digipath_ray.storage.files import publish
from digipath_ray.tissue.mask import write_mask

TUMOR_COLOR, WHOLE_COLOR = (200, 0, 0), (0, 120, 160)


def write_outcome(
    run: RunDirectory, slide: FinishedSlide, outcome: SlideOutcome
) -> None:
    """Write outlines of lesions and classes for QuPath, and masks of the burden."""
    slide_id = slide.record.slide_id
    write_features(run.lesions(slide_id), lesion_features(slide, outcome))
    if outcome.classes is not None:
        features = class_features(slide, outcome.classes)
        write_features(run.class_outlines(slide_id), features)
    if outcome.burden is None:
        return
    for path, mask in (
        (run.viable(slide_id), outcome.burden.viable),
        (run.whole(slide_id), outcome.burden.whole),
    ):
        with publish(path) as temporary:
            write_mask(temporary, mask)


def lesion_features(
    slide: FinishedSlide, outcome: SlideOutcome
) -> Iterator[dict[str, Any]]:
    """GeoJSON features of each lesion and of the whole tumor region, if any."""
    found = outcome.lesions
    for lesion in found.lesions:
        top, left, _, _ = lesion.box
        inside = found.pixels(lesion.number)
        yield feature(
            on_slide(
                slide,
                inside,
                row=top,
                col=left,
                traced=found.outlines[lesion.number - 1],
            ),
            class_name="Tumor",
            color=TUMOR_COLOR,
            name=f"lesion {lesion.number}{in_artifact(outcome, lesion)}",
            measurements={
                **measurements(lesion, lesion.number in outcome.counted),
                **hidden_part(outcome, lesion),
            },
        )
    burden = outcome.burden
    if burden is not None and burden.burden is not None:
        yield feature(
            on_slide(slide, burden.whole.array, row=0, col=0),
            class_name="Whole tumor",
            color=WHOLE_COLOR,
            name="whole tumor region",
            measurements={"Burden": burden.burden, "Area mm^2": burden.whole_mm2},
        )


def in_artifact(outcome: SlideOutcome, lesion: Lesion) -> str:
    """What a lesion's name says of the artifact it lies in."""
    kind = outcome.artifact(lesion.number)
    return "" if kind is None else f" (artifact: {kind})"


def hidden_part(outcome: SlideOutcome, lesion: Lesion) -> dict[str, float]:
    """A lesion's part in artifacts, if they were looked for."""
    if outcome.hidden is None:
        return {}
    return {"In artifacts": outcome.hidden[lesion.number][0]}


def on_slide(
    slide: FinishedSlide,
    pixels: Bools,
    *,
    row: int,
    col: int,
    traced: Shape | None = None,
) -> Shape:
    """Outline of heatmap px in level-0 px, clipped to the slide."""
    return outline(
        pixels,
        x=col * slide.l0_per_hm_x,
        y=row * slide.l0_per_hm_y,
        l0_per_px_x=slide.l0_per_hm_x,
        l0_per_px_y=slide.l0_per_hm_y,
        max_x=slide.width,
        max_y=slide.height,
        traced=traced,
    )


def measurements(lesion: Lesion, counted: bool) -> dict[str, float]:
    """Measurements of a lesion, named as in QuPath."""
    return {
        "Area mm^2": lesion.area_mm2,
        "Perimeter um": lesion.perimeter_um,
        "Max Feret um": lesion.feret_um,
        "Major axis um": lesion.major_axis_um,
        "Eccentricity": lesion.eccentricity,
        "Extent": lesion.extent,
        "Solidity": lesion.solidity,
        "Mean probability": lesion.mean_p,
        "Max probability": lesion.max_p,
        "Counted by the size rule": float(counted),
    }
