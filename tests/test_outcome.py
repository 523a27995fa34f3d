"""What a slide's heatmap comes to, held against shapes of known size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from digipath_ray.config.run import (
    MemberSpec,
    OutcomeSpec,
    RunConfig,
)
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.lesion_files import write_outcome
from digipath_ray.outcome.measure import measure_slide, measured_with
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide
from digipath_ray.run.record import SlideRecord
from digipath_ray.tissue.mask import Mask, read_mask
from tests.records import record_of

MPP = 8.0
"""um per heatmap px; a level-0 px is 1 um."""
MEMBERS = (MemberSpec(name="a", architecture="Unet"),)


def record(**changes: Any) -> SlideRecord:
    """A slide of 1.92 mm2 of tissue."""
    return record_of(width=1600, height=1200, tissue_mm2=1.92, patches=7, **changes)


def slide_of(probability: NDArray[np.float32], **channels: float) -> FinishedSlide:
    """A slide with a heatmap, and channels that are the same everywhere; all tissue."""
    planes = [np.full_like(probability, value) for value in channels.values()]
    heatmap = Heatmap(
        channels=("probability", *channels),
        data=np.stack([probability, *planes]),
        weight=np.ones_like(probability),
        mpp_x=MPP,
        mpp_y=MPP,
    )
    tissue = Mask(array=np.ones(probability.shape, np.bool_), mpp_x=MPP, mpp_y=MPP)
    return FinishedSlide.of(record(), heatmap, tissue, members=["a"])


def blank() -> NDArray[np.float32]:
    return np.zeros((150, 200), np.float32)


def two_lesions() -> FinishedSlide:
    """A square of 240 um at 0.95 and, 1 mm from it, one of 16 um at 0.95."""
    probability = blank()
    probability[10:40, 20:50] = 0.95
    probability[130:132, 170:172] = 0.95
    return slide_of(probability)


def config_for(**outcome: Any) -> RunConfig:
    return RunConfig(members=MEMBERS, outcome=OutcomeSpec(**outcome))


def test_lesions_are_measured_and_small_ones_not_counted() -> None:
    found = measure_slide(two_lesions(), config_for())
    assert found.row["lesions"] == 2
    assert found.row["tumor_mm2"] == pytest.approx((900 + 4) * 64e-6)
    # The square's diagonal, less the corners of its corner px: 240 um a side.
    assert found.row["largest_um"] == pytest.approx(np.hypot(240, 232), abs=8)
    assert found.row["score"] == pytest.approx(0.95)
    assert found.counted == {1}
    assert [lesion["counted"] for lesion in found.listed] == [True, False]
    assert found.features is None
    assert found.burden is None


def test_a_lesion_that_is_never_sure_does_not_count() -> None:
    probability = blank()
    probability[10:40, 20:50] = 0.65
    found = measure_slide(slide_of(probability), config_for())
    assert (found.row["lesions"], found.row["largest_um"]) == (1, 0.0)
    sure = measure_slide(slide_of(probability), config_for(min_lesion_p=0.6))
    assert sure.row["largest_um"] > 240


def test_features_come_with_stages_and_burden_with_burdens() -> None:
    slide = two_lesions()
    staged = measure_slide(slide, config_for(outcome="stage"))
    assert staged.features is not None
    assert staged.features["region_count_p90"] == 2
    assert staged.features["tumor_to_tissue_p90"] == pytest.approx(904 * 64e-6 / 1.92)
    assert staged.burden is None
    spec = {"viable_close_um": 0.0, "viable_open_um": 0.0, "min_viable_mm2": 0.001}
    burdened = measure_slide(slide, config_for(outcome="burden", **spec))
    assert burdened.features is None
    assert burdened.row["burden"] == pytest.approx(1.0, abs=0.01)
    nothing = measure_slide(slide_of(blank()), config_for(outcome="burden"))
    assert nothing.row["burden"] is None
    assert "no tumor found" in nothing.row["burden_note"]


def test_noise_is_flagged_and_counted_whole() -> None:
    probability = np.zeros((300, 300), np.float32)
    probability[::2, ::2] = 0.9
    slide = slide_of(probability)
    inked = replace(slide, record=replace(slide.record, qc=("ink",)))
    found = measure_slide(inked, config_for())
    assert found.row["lesions"] == 150 * 150
    assert found.row["qc"] == ["ink", "noisy heatmap"]


def test_tumor_on_glass_is_flagged() -> None:
    # 60 of 300 rows are tissue: 1.152 mm2, of which tumor outside may be a fifth.
    probability = np.zeros((300, 300), np.float32)
    probability[:60] = 0.9
    slide = slide_of(probability)
    tissue = np.zeros((300, 300), bool)
    tissue[:60] = True
    record = replace(slide.record, tissue_mm2=60 * 300 * 64e-6)
    slide = replace(slide, tissue=tissue, record=record)
    assert measure_slide(slide, config_for()).row["qc"] == []
    slide.heatmap.data[0][60:72] = 0.9
    assert measure_slide(slide, config_for()).row["qc"] == []
    slide.heatmap.data[0][72, 0] = 0.9
    row = measure_slide(slide, config_for()).row
    assert row["qc"] == ["tumor outside the tissue"]
    assert row["tumor_mm2"] == pytest.approx((72 * 300 + 1) * 64e-6)


def test_uncertainty_is_looked_at_where_it_could_go_either_way() -> None:
    probability = blank()
    probability[:10, :10] = 0.5
    heatmap = slide_of(probability, epistemic=0.0).heatmap
    heatmap.data[1][:10, :10] = 0.04
    heatmap.data[1][100:] = 0.2  # where p is 0: not looked at
    slide = replace(slide_of(probability), heatmap=heatmap)
    row = measure_slide(slide, config_for()).row
    assert row["unsure"] == pytest.approx(0.04)
    assert row["epistemic_max"] == pytest.approx(0.2)
    sure = measure_slide(slide_of(blank(), epistemic=0.1), config_for()).row
    assert sure["unsure"] == 0.0
    assert measure_slide(slide_of(blank()), config_for()).row["unsure"] is None


def test_lesions_for_qupath_lie_where_they_were_found(tmp_path: Path) -> None:
    run, slide = RunDirectory(tmp_path), two_lesions()
    found = measure_slide(slide, config_for())
    write_outcome(run, slide, found)
    tree = json.loads(run.lesions("s").read_text())
    shapes = [shapely.from_geojson(json.dumps(f["geometry"])) for f in tree["features"]]
    assert [shape.bounds for shape in shapes] == [
        (160.0, 80.0, 400.0, 320.0),
        (1360.0, 1040.0, 1376.0, 1056.0),
    ]
    properties = tree["features"][0]["properties"]
    assert properties["classification"]["name"] == "Tumor"
    assert properties["measurements"]["Area mm^2"] == pytest.approx(900 * 64e-6)
    assert properties["measurements"]["Counted by the size rule"] == 1.0


def test_burden_writes_its_masks_and_outline(tmp_path: Path) -> None:
    run, slide = RunDirectory(tmp_path), two_lesions()
    spec = {"viable_close_um": 0.0, "viable_open_um": 0.0, "min_viable_mm2": 0.0}
    found = measure_slide(slide, config_for(outcome="burden", **spec))
    write_outcome(run, slide, found)
    viable, whole = read_mask(run.viable("s")), read_mask(run.whole("s"))
    assert viable.area_mm2 == pytest.approx(904 * 64e-6, rel=1e-3)
    assert viable.area_mm2 / whole.area_mm2 == pytest.approx(found.row["burden"], 1e-6)
    names = [
        f["properties"]["classification"]["name"]
        for f in json.loads(run.lesions("s").read_text())["features"]
    ]
    assert names == ["Tumor", "Tumor", "Whole tumor"]


def test_what_changes_no_slide_makes_none_anew() -> None:
    first = measured_with(config_for(outcome="stage"))
    assert measured_with(config_for(outcome="stage", nodes=5)) == first
    assert measured_with(config_for(outcome="stage", stage_model="/m.skops")) == first
    assert measured_with(config_for(outcome="stage", min_lesion_um=41.0)) != first
    other = config_for(outcome="stage", threshold=0.6)
    assert measured_with(other) != first
