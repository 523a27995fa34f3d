"""CAMELYON16's FROC, counted by hand, and its lesions on a real annotation."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import skimage.measure
from PIL import Image
from rich.console import Console

from digipath_ray.annotations import Window, read_annotation
from digipath_ray.cli.evaluate import evaluate
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.camelyon16 import evaluate_camelyon16, truth_of
from digipath_ray.evaluate.detections import (
    Detection,
    find_detections,
    read_detections,
    write_detections,
)
from digipath_ray.evaluate.froc import (
    TRUTH_MPP,
    LesionTruth,
    SlideHits,
    find_truth,
    froc_curve,
    froc_score,
    match,
)
from digipath_ray.evaluate.predicted import find_run, maps_of
from digipath_ray.evaluate.reference import Extent
from digipath_ray.evaluate.slidescore import auc, slide_score
from tests.evaluated import plane, write_run

# --- lesions ---


def test_a_lesion_grows_by_37_5_um_and_not_by_more() -> None:
    # 3.75 px of 10 um: of the squared distances 0, 1, 2, 4, 5, 8, 9, 10, 13 (below
    # 14.06) there are 1 + 4 + 4 + 4 + 8 + 4 + 4 + 8 + 8 pixels.
    truth = find_truth(plane(41, 41, ((20, 20), 1)) > 0, mpp=10)
    assert (truth.labels > 0).sum() == 45
    # 5 px of 7.5 um: a pixel at distance 5 exactly is not below 5. 21 + 4 + 8 + 4 of
    # 9, 10 and so on: all lattice points inside a circle of radius 5.
    truth = find_truth(plane(41, 41, ((20, 20), 1)) > 0, mpp=7.5)
    y, x = np.indices((41, 41)) - 20
    assert (truth.labels > 0).sum() == (x**2 + y**2 < 25).sum() == 69


def test_where_a_lesion_lies_is_asked_in_um_of_the_slide() -> None:
    truth = find_truth(plane(60, 80, ((30, 50), 1)) > 0, mpp=10)
    assert truth.label_at(505, 305) == 1
    assert truth.label_at(505 + 30, 305) == 1
    assert truth.label_at(505 + 40, 305) == 0
    assert truth.label_at(0, 0) == truth.label_at(795, 595) == 0
    assert truth.label_at(-5, 5000) == 0


def test_holes_are_filled_and_what_touches_by_a_corner_is_one() -> None:
    # At 37.5 um a lesion does not grow: reach is 1 px, and a neighbor not below it.
    ring = plane(9, 20, (np.s_[2:7, 2:7], 1), (np.s_[3:6, 3:6], 0), ((7, 7), 1)) > 0
    ring[1, 18] = True
    truth = find_truth(ring, mpp=37.5)
    assert truth.label_at(4.5 * 37.5, 4.5 * 37.5) == truth.label_at(
        7.5 * 37.5, 7.5 * 37.5
    )
    assert truth.labels.max() == 2
    assert (truth.labels > 0).sum() == 25 + 1 + 1


def test_itc_is_a_grown_lesion_with_a_major_axis_below_275_um() -> None:
    # n px in a row have the axis 4 sqrt(n^2 / 12) = 1.1547 n: 259.8 and 303.1 um.
    six, seven = np.s_[1, 1:7], np.s_[3, 1:8]
    truth = find_truth(plane(5, 10, (six, 1), (seven, 1)) > 0, mpp=37.5)
    assert truth.itc == {truth.label_at(2 * 37.5, 1.5 * 37.5)}
    assert truth.count == 1


def test_no_tumor_is_no_lesion() -> None:
    truth = find_truth(np.zeros((5, 5), bool))
    assert (truth.count, truth.itc, truth.label_at(1, 1)) == (0, frozenset(), 0)


def script_way(tumor: np.ndarray, mpp: float) -> tuple[np.ndarray, set[int]]:
    """All at once, in whole arrays."""
    distance = scipy.ndimage.distance_transform_edt(~tumor)
    filled = scipy.ndimage.binary_fill_holes(distance < 75 / (2 * mpp))
    labels = skimage.measure.label(filled, connectivity=2)
    regions = skimage.measure.regionprops(labels)
    itc = {r.label for r in regions if r.axis_major_length < 275 / mpp}
    return labels, itc


@pytest.mark.parametrize(
    ("name", "lesions", "itc"),
    [("tumor_074.xml", 1, 4), ("tumor_098.xml", 1, 1)],
)
def test_real_lesions_are_those_of_the_whole_arrays(
    shared_data: Path, name: str, lesions: int, itc: int
) -> None:
    path = shared_data / "camelyon16" / "annotations" / name
    extent = Extent(width=32_000, height=82_000, mpp_x=0.243, mpp_y=0.243)
    row = SlideRow(slide_id="s", path="", annotation=str(path))
    truth = truth_of(row, extent, AnnotationSpec(), {})
    assert truth is not None
    assert (truth.count, len(truth.itc)) == (lesions, itc)
    window = Window.over(extent, 32, 32)
    tumor = read_annotation(path, slide=extent).tumor(window)
    assert pytest.approx(0.243 * 32) == TRUTH_MPP
    labels, expected = script_way(tumor, TRUTH_MPP)
    height, width = truth.labels.shape
    part = np.s_[truth.row : truth.row + height, truth.col : truth.col + width]
    assert np.array_equal(labels[part], truth.labels)
    assert (labels > 0).sum() == (truth.labels > 0).sum()
    assert truth.itc == expected


def test_a_hit_in_a_real_lesion_is_found_in_level_0_px(shared_data: Path) -> None:
    path = shared_data / "camelyon16" / "annotations" / "tumor_098.xml"
    extent = Extent(width=40_000, height=70_000, mpp_x=0.243, mpp_y=0.243)
    row = SlideRow(slide_id="s", path="", annotation=str(path))
    annotation = read_annotation(path, slide=extent)
    shapes = sorted(annotation.geometry.geoms, key=lambda g: -g.area)
    points = [shape.representative_point() for shape in shapes]
    large, small = (Detection(0.9, int(p.x), int(p.y)) for p in points[:2])
    truth = truth_of(row, extent, AnnotationSpec(), {})
    beside = Detection(0.8, 10, 10)
    hits = match([large, small, beside], truth, mpp_x=0.243, mpp_y=0.243)
    assert hits.lesions.tolist() == [0.9]  # the small one is isolated tumor cells
    assert hits.false.tolist() == [0.8]


# --- hits and the curve ---


def hits_of_a_slide() -> SlideHits:
    labels = np.array([[1, 0, 2, 0, 3, 0]])
    truth = LesionTruth(
        labels=labels, row=0, col=0, itc=frozenset({3}), count=2, mpp=1.0
    )
    found = [
        Detection(0.9, 0, 0),
        Detection(0.8, 0, 0),  # again: nothing
        Detection(0.95, 4, 0),  # isolated tumor cells: nothing
        Detection(0.6, 5, 0),
        Detection(0.45, 2, 0),
    ]
    return match(found, truth)


def test_a_lesion_has_its_best_hit_and_itc_count_neither_way() -> None:
    hits = hits_of_a_slide()
    assert hits.tumor
    assert hits.lesions.tolist() == [0.9, 0.45]
    assert hits.false.tolist() == [0.6]


def four_slides() -> list[SlideHits]:
    """Three lesions, one of them missed, and four false positives."""
    return [
        hits_of_a_slide(),
        SlideHits(tumor=True, false=np.array([0.5, 0.48]), lesions=np.array([0.0])),
        SlideHits(tumor=False, false=np.array([0.7]), lesions=np.zeros(0)),
        SlideHits(tumor=False, false=np.zeros(0), lesions=np.zeros(0)),
    ]


def test_the_curve_counts_all_false_positives_over_all_slides() -> None:
    curve = froc_curve(four_slides())
    assert curve is not None
    # At none, 0.9, 0.7, 0.6, 0.5, 0.48, 0.45.
    assert curve[0].tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert curve[1].tolist() == pytest.approx([0, *[1 / 3] * 5, 2 / 3])


def test_sensitivities_are_read_as_the_script_reads_them() -> None:
    # At 1/4, 1/2 and 1 the first point with as many false positives: a third each,
    # also at 1, where a lower threshold finds two thirds at the same rate. Beyond the
    # curve's end its last point.
    assert froc_score(four_slides()) == pytest.approx((3 * 1 / 3 + 3 * 2 / 3) / 6)


def test_false_positives_of_normal_slides_over_normal_slides() -> None:
    # 0.7 alone, on one of two slides; thresholds 0.9, 0.7 and 0.45.
    curve = froc_curve(four_slides(), "normal-slides")
    assert curve is not None
    assert curve[0].tolist() == [0, 0, 0.5, 0.5]
    assert curve[1].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    score = froc_score(four_slides(), "normal-slides")
    assert score == pytest.approx((2 * 1 / 3 + 4 * 2 / 3) / 6)


def test_without_lesions_or_normal_slides_there_is_no_score() -> None:
    normal, tumor = four_slides()[3], four_slides()[0]
    assert math.isnan(froc_score([normal]))
    assert math.isnan(froc_score([tumor], "normal-slides"))
    nothing = SlideHits(tumor=True, false=np.zeros(0), lesions=np.zeros(2))
    assert froc_score([nothing]) == 0
    sure = SlideHits(tumor=True, false=np.zeros(0), lesions=np.array([0.9]))
    assert froc_score([sure]) == 1


# --- detections ---


def detections_of(run_folder: Path, p: np.ndarray, **options: float):
    run = find_run(write_run(run_folder, {"s": p}).root)
    assert run is not None
    return find_detections(maps_of(run.slide("s"))["ensemble"], **options)


def test_peaks_suppress_what_is_within_the_radius(tmp_path: Path) -> None:
    # Pixels of 4 um: 187 um are 46.75 px, so a pixel 46 away is gone, 47 is not.
    p = plane(60, 110, ((5, 10), 0.9), ((5, 56), 0.8), ((5, 57), 0.75), ((52, 10), 0.6))
    p[50, 50] = 0.5  # not above 0.5
    assert detections_of(tmp_path / "a", p) == [
        (pytest.approx(0.9), 10 * 4 + 2, 5 * 4 + 2),
        (pytest.approx(0.75), 57 * 4 + 2, 5 * 4 + 2),
        (pytest.approx(0.6), 10 * 4 + 2, 52 * 4 + 2),
    ]
    near = detections_of(tmp_path / "b", p, radius_um=4.0, stop_p=0.4)
    # (5, 56) suppresses its neighbor; 0.5 is above 0.4.
    assert [d.confidence for d in near] == pytest.approx([0.9, 0.8, 0.6, 0.5])


def test_peaks_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    p = scipy.ndimage.gaussian_filter(rng.random((120, 150)), 2)
    p = np.round((p - p.min()) / np.ptp(p), 2).astype(np.float32)  # with ties
    left, expected = p.copy(), []
    y, x = np.indices(p.shape)
    while left.max() > 0.5:
        row, col = divmod(int(left.argmax()), p.shape[1])
        expected.append((float(left[row, col]), col * 4 + 2, row * 4 + 2))
        left[(x - col) ** 2 + (y - row) ** 2 <= (40 / 4) ** 2] = 0
    assert len(expected) > 20
    assert detections_of(tmp_path, p, radius_um=40.0) == expected


def test_a_peak_beyond_the_slides_edge_lies_on_it(tmp_path: Path) -> None:
    # The last pixel's center is at 38, 18; the slide ends before it.
    run = find_run(write_run(tmp_path, {"s": plane(5, 10, ((4, 9), 0.9))}).root)
    assert run is not None
    slide = run.slide("s")
    slide = replace(slide, record=replace(slide.record, width=37, height=17))
    assert find_detections(slide) == [(pytest.approx(0.9), 36, 16)]


def test_the_challenges_files_go_round(tmp_path: Path) -> None:
    found = [Detection(0.984375, 12, 345678), Detection(0.5, 0, 1)]
    write_detections(tmp_path / "s.csv", found)
    assert (tmp_path / "s.csv").read_text() == "0.984375,12,345678\n0.5,0,1\n"
    assert read_detections(tmp_path / "s.csv") == found
    (tmp_path / "t.csv").write_text("x,y,p\n12.7,5,0.5\n\n")
    assert read_detections(tmp_path / "t.csv") == [Detection(0.5, 12, 5)]
    (tmp_path / "none.csv").write_text("")
    assert read_detections(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.5,1\n", r"line 1: '0.5,1'"),
        ("0.5,1,2\nnan,1,2\n", "line 2"),
        ("0.5,1,inf\n", "line 1"),
        ("p,x\n0.5,1\n", "columns must be p, x, y"),
        ("-0.5,1,2\n", "line 1"),
        ("1,2,0.5\n300,2,0.5\n", r"line 2.*confidence \(0 to 1\), x, y"),
        ('"' + "9" * 200_000 + '",1,2\n', r"s\.csv: not a CSV"),
        ("\udcff,1,2\n", r"s\.csv: not a CSV in UTF-8"),
    ],
)
def test_damaged_detections_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=said):
        read_detections(tmp_path / "s.csv")


# --- whole slides ---


def test_a_slides_score_is_the_peak_of_lesions_long_enough(tmp_path: Path) -> None:
    # 3 px are 12 um and shorter than 40; 11 px are 44. The short one is surer.
    p = plane(40, 60, (np.s_[2, 2:5], 0.99), (np.s_[30, 2:13], 0.6), ((30, 5), 0.65))
    run = find_run(write_run(tmp_path, {"s": p}).root)
    assert run is not None
    heatmap = maps_of(run.slide("s"))["ensemble"].heatmap
    assert slide_score(heatmap, run.config) == pytest.approx(0.65)


def test_auc_by_hand() -> None:
    # Of 2 x 2 pairs three are in order, and one is a tie: 3.5 of 4.
    assert auc([True, True, False, False], [0.9, 0.5, 0.5, 0.1]) == 0.875
    assert math.isnan(auc([True, True], [0.1, 0.2]))


LESION, ALARM = np.s_[20:32, 20:120], np.s_[90:100, 20:32]


def challenge(folder: Path) -> tuple[Path, Path]:
    """A slide with one lesion of 400 x 48 um, found; two normal ones, one alarming."""
    folder.mkdir()
    tumor = plane(120, 140, (LESION, 1)) > 0
    mask = np.kron(tumor, np.ones((4, 4), bool))
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "t_mask.png")
    lines = ["slide_id,path,annotation,label", "t,t.tif,t_mask.png,tumor"]
    lines += ["n1,n1.tif,,negative", "n2,n2.tif,,normal"]
    (folder / "cohort.csv").write_text("\n".join(lines))
    found = plane(120, 140, (LESION, 0.7), ((25, 60), 0.9))
    alarm = plane(120, 140, (ALARM, 0.8))
    a = {"t": found, "n1": alarm * 0, "n2": alarm * 0}
    b = {"t": found * 0, "n1": alarm, "n2": alarm * 0}
    both = {i: (a[i] + b[i]) / 2 for i in a}
    slides = {
        i: {
            "probability": np.where(both[i] > 0, both[i] + 0.4, 0),
            "member:a": a[i],
            "member:b": b[i],
        }
        for i in a
    }
    run = write_run(folder / "run", slides)
    return folder / "cohort.csv", run.root


def test_a_run_against_masks_with_its_members(tmp_path: Path) -> None:
    cohort, run = challenge(tmp_path / "c")
    found = evaluate_camelyon16(cohort, run, detections=tmp_path / "csv", resamples=50)
    # The ensemble: 0.85 on the lesion, 0.8 on a normal slide.
    froc, area = found.scores["froc"], found.scores["auc"]
    assert (froc.value, area.value) == (1.0, 1.0)
    assert (froc.n, froc.unit, froc.units) == (3, "slide", 3)
    assert found.members["a"]["froc"].value == 1.0
    # Only the alarm: the curve ends at 1/3 false positive with nothing found.
    assert found.members["b"]["froc"].value == 0.0
    assert found.members["b"]["auc"].value == 0.25  # below one, tied with the other
    assert found.against_members() == {"froc": (1, 2), "auc": (1, 2)}
    assert found.notes == (
        "lesions, isolated tumor cells excluded: 1; slides with tumor: 1, without: 2",
    )

    # The CSVs that were written say the same.
    assert read_detections(tmp_path / "csv" / "n1.csv") == [
        (pytest.approx(0.8), 82, 362)
    ]
    again = evaluate_camelyon16(cohort, tmp_path / "csv", mask_mpp=1.0, resamples=50)
    assert again.scores == found.scores


def test_a_folder_of_masks_says_that_the_other_slides_hold_none(tmp_path: Path) -> None:
    _, run = challenge(tmp_path / "c")
    (tmp_path / "masks").mkdir()
    (tmp_path / "c" / "t_mask.png").rename(tmp_path / "masks" / "t_mask.png")
    found = evaluate_camelyon16(tmp_path / "masks", run, resamples=0)
    assert found.scores["froc"].value == 1.0
    assert found.scores["auc"].n == 3
    assert found.scores["auc"].low is None


def test_false_positives_can_be_those_of_normal_slides(tmp_path: Path) -> None:
    cohort, _ = challenge(tmp_path / "c")
    (tmp_path / "p").mkdir()
    for slide_id, text in {
        "t": "0.3,200,100\n0.9,20,20\n",  # the lesion, and beside it
        "n1": "",
        "n2": "",
    }.items():
        (tmp_path / "p" / f"{slide_id}.csv").write_text(text)
    scores = [
        evaluate_camelyon16(cohort, tmp_path / "p", mask_mpp=1.0, resamples=0, fp=fp)
        .scores["froc"]
        .value
        for fp in ("all-slides", "normal-slides")
    ]
    # All: rates 0, 1/3, 1/3 and nothing found at the first 1/3, which is read for 1/4.
    assert scores == pytest.approx([5 / 6, 1.0])


def test_detections_beyond_their_slide_are_said(tmp_path: Path) -> None:
    cohort, _ = challenge(tmp_path / "c")
    (tmp_path / "p").mkdir()
    # The slide is 560 x 480 px.
    text = "0.9,559,479\n0.8,560,479\n0.7,-1,0\n"
    for slide_id, said in {"t": text, "n1": "", "n2": ""}.items():
        (tmp_path / "p" / f"{slide_id}.csv").write_text(said)
    found = evaluate_camelyon16(cohort, tmp_path / "p", mask_mpp=1.0, resamples=0)
    assert any(
        "outside their slide, counted as false positives: 2, e.g. on t" in n
        for n in found.notes
    )


@pytest.mark.parametrize("mask_mpp", [0.0, -1.0, math.nan])
def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, mask_mpp: float) -> None:
    cohort, run = challenge(tmp_path / "c")
    with pytest.raises(ValueError, match="give um per px"):
        evaluate_camelyon16(cohort, run, mask_mpp=mask_mpp)


def test_what_is_not_predicted_or_not_annotated_is_named(tmp_path: Path) -> None:
    cohort, run = challenge(tmp_path / "c")
    text = cohort.read_text()
    cohort.write_text(text + "\nn3,n3.tif,,negative")
    with pytest.raises(ValueError, match=r"1 of 4 slides.*n3.*it was not run"):
        evaluate_camelyon16(cohort, run)
    cohort.write_text(text + "\nn3,n3.tif,,macro")
    with pytest.raises(ValueError, match=r"line 5: n3 is labeled 'macro' and has no"):
        evaluate_camelyon16(cohort, run)
    cohort.write_text(text.replace(",normal", ","))
    notes = evaluate_camelyon16(cohort, run, resamples=0).notes
    assert any("neither annotation nor label" in note for note in notes)


def test_the_command_takes_all_that_it_is_given(tmp_path: Path) -> None:
    cohort, run = challenge(tmp_path / "c")
    console = Console(width=120, file=io.StringIO(), record=True)
    evaluate(
        console,
        "camelyon16",
        cohort,
        run,
        json_out=tmp_path / "scores.json",
        fp="normal-slides",
        detections=tmp_path / "csv",
        resamples=10,
    )
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["froc"]["value"] == 1
    assert found["members"]["b"]["froc"]["value"] == 0
    assert sorted(f.name for f in (tmp_path / "csv").iterdir()) == [
        "n1.csv",
        "n2.csv",
        "t.csv",
    ]
    text = console.export_text()
    assert "froc: the ensemble is above 1 of 2 members" in text
    evaluate(console, "camelyon16", cohort, tmp_path / "csv", mask_mpp=1, resamples=0)
    assert "prediction" in console.export_text()
