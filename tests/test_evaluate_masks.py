"""Dice, Jaccard and the challenges built on them, by masks small enough to count."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from digipath_ray.cli.evaluate import evaluate
from digipath_ray.evaluate.digestpath import _of_mask, evaluate_digestpath2019
from digipath_ray.evaluate.masks import Overlap, count_overlap, evaluate_masks, pool
from digipath_ray.evaluate.paip import CaseScore, evaluate_paip2019, read_burdens
from digipath_ray.evaluate.reference import annotations_in, read_reference
from tests.evaluated import plane, write_run
from tests.runs import SMALL
from tests.slides import write_pyramid

ROWS, COLS = 20, 40
A, HALF_A = np.s_[4:12, 4:24], np.s_[4:12, 4:14]  # 160 and 80 px
ALARM = np.s_[14:18, 30:40]  # 40 px


def mask(*parts) -> np.ndarray:
    return plane(ROWS, COLS, *((part, 1) for part in parts)) > 0


def save(path: Path, array: np.ndarray, times: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.kron(array, np.ones((times, times), bool))
    Image.fromarray(pixels.astype(np.uint8) * 255).save(path)


def test_overlaps_by_hand() -> None:
    found = count_overlap(mask(HALF_A, ALARM), mask(A))
    assert found == Overlap(both=80, predicted=120, reference=160, pixels=800)
    assert found.dice == 160 / 280
    assert found.jaccard == 80 / 200
    nothing = count_overlap(mask(), mask())
    assert (nothing.dice, nothing.jaccard, nothing.has_lesion) == (1, 1, False)
    assert count_overlap(mask(ALARM), mask()).dice == 0
    both = pool([found, count_overlap(mask(A), mask(A))])
    assert both == Overlap(both=240, predicted=280, reference=320, pixels=1600)


def test_what_is_ignored_is_left_out() -> None:
    found = count_overlap(mask(HALF_A, ALARM), mask(A), mask(ALARM, np.s_[4:12, 20:24]))
    assert found == Overlap(both=80, predicted=80, reference=128, pixels=800 - 72)


# --- masks ---


def three_masks(folder: Path) -> tuple[Path, Path]:
    """Half of the first lesion is found, all of the second; one false alarm."""
    truth = {"a": mask(A), "b": mask(A), "c": mask()}
    found = {"a": mask(HALF_A), "b": mask(A), "c": mask(ALARM)}
    for slide_id in truth:
        save(folder / "truth" / f"{slide_id}_mask.png", truth[slide_id])
        save(folder / "found" / f"{slide_id}.png", found[slide_id])
    return folder / "truth", folder / "found"


def test_masks_image_by_image_and_pooled(tmp_path: Path) -> None:
    found = evaluate_masks(*three_masks(tmp_path), resamples=200)
    values = {name: score.value for name, score in found.scores.items()}
    assert values == {
        "dice": pytest.approx((160 / 240 + 1) / 2),
        "jaccard": pytest.approx((0.5 + 1) / 2),
        "dice_pooled": pytest.approx(2 * 240 / (280 + 320)),
        "jaccard_pooled": pytest.approx(240 / 360),
    }
    dice, pooled = found.scores["dice"], found.scores["dice_pooled"]
    assert (dice.n, dice.unit, dice.units) == (2, "image", 2)
    assert (pooled.n, pooled.units) == (3, 3)
    # Of two images, drawn twice: both the first, both the second.
    assert (dice.low, dice.high) == (pytest.approx(2 / 3), 1)


def test_a_predicted_mask_may_have_another_scale(tmp_path: Path) -> None:
    save(tmp_path / "truth" / "a.png", mask(A), times=4)
    save(tmp_path / "found" / "a.png", mask(HALF_A))
    found = evaluate_masks(tmp_path / "truth", tmp_path / "found", resamples=0)
    assert found.scores["jaccard"].value == 0.5


def test_strips_of_large_masks_say_what_the_whole_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate_masks(*three_masks(tmp_path), resamples=0).scores
    monkeypatch.setattr("digipath_ray.evaluate.masks.STRIP_PX", 7 * COLS)
    truth, found = tmp_path / "truth", tmp_path / "found"
    assert evaluate_masks(truth, found, resamples=0).scores == whole


GEOJSON = """{"type": "FeatureCollection", "features": [{"type": "Feature",
"geometry": {"type": "Polygon", "coordinates":
[[[16, 16], [96, 16], [96, 48], [16, 48], [16, 16]]]},
"properties": {"objectType": "annotation", "classification": {"name": "Tumor"}}}]}"""
"""A at 4 px of level 0 per px."""


def test_outlines_need_the_slide_or_a_mask_of_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(GEOJSON)
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,annotation\na,a.tif,a.geojson\n")
    save(tmp_path / "full" / "a.png", mask(HALF_A), times=4)
    full = evaluate_masks(table, tmp_path / "full", resamples=0)
    assert full.scores["jaccard"].value == 0.5
    # With the slide itself a mask may be smaller.
    white = np.full((ROWS * 4, COLS * 4, 3), 255, np.uint8)
    write_pyramid(tmp_path / "a.tif", white, mpp=1.0)
    save(tmp_path / "small" / "a.png", mask(HALF_A))
    small = evaluate_masks(table, tmp_path / "small", resamples=0)
    assert small.scores["jaccard"].value == 0.5


def test_a_run_and_its_members_at_the_heatmaps_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(GEOJSON)
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,annotation,label\na,a.tif,a.geojson,\nn,n.tif,,0\n")
    good, weak = plane(ROWS, COLS, (A, 0.5)), plane(ROWS, COLS, (HALF_A, 0.9))
    maps = {"probability": good, "member:u": weak, "member:v": good * 0}
    alarm = {**maps, "probability": plane(ROWS, COLS, (ALARM, 0.6))}
    run = write_run(
        tmp_path / "run",
        {"a": maps, "n": alarm, "x": good},
        patients={"a": "p", "n": "q"},
    )
    found = evaluate_masks(table, run.root, resamples=20)
    values = {n: s["jaccard"].value for n, s in found.members.items()}
    assert found.scores["jaccard"].value == 1
    assert values == {"u": 0.5, "v": 0}
    assert found.scores["dice_pooled"].value == pytest.approx(320 / 360)
    assert found.scores["dice_pooled"].unit == "patient"
    assert found.against_members()["jaccard"] == (2, 2)
    assert found.notes == ("predicted but not in the reference: 1, e.g. x",)
    as_json = found.as_json()
    assert as_json["jaccard"]["value"] == 1
    assert as_json["members"]["u"]["jaccard"]["value"] == 0.5


def test_files_are_named_by_slide(tmp_path: Path) -> None:
    save(tmp_path / "a_mask.png", mask())
    save(tmp_path / "01_01_0083_viable.tif", mask())
    (tmp_path / "b.geojson.gz").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert sorted(annotations_in(tmp_path)) == ["01_01_0083", "a", "b"]
    save(tmp_path / "a.png", mask())
    with pytest.raises(
        ValueError, match=r"a\.png and a_mask\.png are of the same slide"
    ):
        annotations_in(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no annotations in this folder"):
        annotations_in(tmp_path / "none")
    with pytest.raises(ValueError, match=r"notes\.txt: not a reference"):
        read_reference(tmp_path / "notes.txt")


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    truth, found = three_masks(tmp_path)
    (found / "b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 slides.*e.g. b \(it has no fil"):
        evaluate_masks(truth, found)


# --- DigestPath ---


def test_digestpath_by_masks(tmp_path: Path) -> None:
    truth, found = three_masks(tmp_path)
    (truth / "c_mask.png").unlink()  # an image without lesion has no mask there
    scores = evaluate_digestpath2019(truth, found, resamples=0).scores
    assert scores["dice"].value == pytest.approx((2 / 3 + 1) / 2)
    assert scores["dice"].n == 2
    assert scores["dice_pooled"].value == pytest.approx(0.8)
    # By area 80 and 160 px with a lesion, 40 without.
    assert scores["auc"].value == 1


def test_digestpath_by_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(GEOJSON)
    table = tmp_path / "cohort.csv"
    rows = ["slide_id,path,annotation,patient_id", "a,a.jpg,a.geojson,p"]
    rows += ["b,b.jpg,a.geojson,p", "c,c.jpg,,q", "d,d.jpg,,r"]
    table.write_text("\n".join(rows))
    maps = {
        "a": plane(ROWS, COLS, (HALF_A, 0.9)),
        "b": plane(ROWS, COLS, (A, 0.6)),
        "c": plane(ROWS, COLS, (np.s_[14:18, 25:40], 0.7)),  # 62 um long
        # 20 um long: no lesion of the minimum size, however sure.
        "d": plane(ROWS, COLS, (np.s_[14:17, 30:34], 0.99)),
    }
    run = write_run(tmp_path / "run", maps)
    scores = evaluate_digestpath2019(table, run.root, resamples=100).scores
    assert scores["dice"].value == pytest.approx((2 / 3 + 1) / 2)
    assert scores["dice_pooled"].value == pytest.approx(2 * 240 / (320 + 312))
    # 0.9 and 0.6 against 0.7 and 0: three of four pairs.
    assert scores["auc"].value == 0.75
    assert (scores["auc"].unit, scores["auc"].units, scores["auc"].n) == (
        "patient",
        3,
        4,
    )


def test_an_image_of_which_all_is_left_open_scores_nothing() -> None:
    nothing = Overlap(both=0, predicted=0, reference=0, pixels=0)
    assert _of_mask(nothing).score == 0


def test_a_file_in_place_of_a_folder_of_masks_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "truth" / "a.png", mask(A))
    with pytest.raises(ValueError, match=r"a\.png: neither a run directory nor"):
        evaluate_masks(tmp_path / "truth", tmp_path / "truth" / "a.png")


def test_without_images_of_both_kinds_there_is_no_auc(tmp_path: Path) -> None:
    save(tmp_path / "truth" / "a.png", mask(A))
    save(tmp_path / "found" / "a.png", mask(A))
    found = evaluate_digestpath2019(tmp_path / "truth", tmp_path / "found")
    assert set(found.scores) == {"dice", "dice_pooled"}
    assert "no auc: needs images with and without lesions" in found.notes


# --- PAIP ---


def case(jaccard: float, burden: float | None, reference: float) -> CaseScore:
    overlap = Overlap(
        both=round(jaccard * 100),
        predicted=round(jaccard * 100),
        reference=100,
        pixels=100,
    )
    return CaseScore(overlap=overlap, burden=burden, reference=reference)


def test_a_case_counts_from_a_jaccard_of_65_percent() -> None:
    assert case(0.65, 0.3, 0.3).clipped == 0.65
    assert case(0.64, 0.3, 0.3).clipped == 0
    assert case(0.64, 0.3, 0.3).jaccard == 0.64
    assert case(0.9, 0.3, 0.7).accuracy == pytest.approx(0.6)
    assert case(0.9, 0.0, 0.7).accuracy == pytest.approx(0.3)
    assert case(0.9, None, 0.05).accuracy == 0
    missing = CaseScore(overlap=None, burden=None, reference=0.0)
    assert (missing.jaccard, missing.clipped, missing.accuracy) == (0, 0, 0)


def paip(folder: Path) -> dict[str, Path]:
    """Jaccard 1 and 0.5, burdens 10 and 20 percent off; a third case is missing."""
    for slide_id in ("x", "y", "z"):
        save(folder / "truth" / f"{slide_id}_viable.png", mask(A))
    save(folder / "found" / "x.png", mask(A))
    save(folder / "found" / "y.png", mask(HALF_A))
    (folder / "found" / "burdens.csv").write_text("slide_id,burden\nx,70\ny,30.5\n")
    (folder / "true.csv").write_text("wsi_id,ratio\nx,80\ny,50.5\nz,1\n")
    return {
        "reference": folder / "truth",
        "prediction": folder / "found",
        "burdens": folder / "true.csv",
    }


def test_paip_in_both_readings_a_missing_case_scores_0(tmp_path: Path) -> None:
    found = evaluate_paip2019(**paip(tmp_path), resamples=50)
    values = {name: score.value for name, score in found.scores.items()}
    assert values == {
        "jaccard_clipped": pytest.approx((1 + 0 + 0) / 3),
        "jaccard": pytest.approx((1 + 0.5 + 0) / 3),
        "burden_score": pytest.approx((0.9 + 0 + 0) / 3),
        "burden_score_plain": pytest.approx((0.9 + 0.8 * 0.5 + 0) / 3),
    }
    assert found.scores["burden_score"].unit == "case"
    assert found.scores["burden_score"].n == 3
    assert found.notes == ("missing cases, which score 0: 1, e.g. z",)


def test_a_burden_that_nobody_said_scores_0(tmp_path: Path) -> None:
    given = paip(tmp_path)
    (given["prediction"] / "burdens.csv").write_text("slide_id,burden\nx,70\n")
    found = evaluate_paip2019(**given, resamples=0)
    assert found.scores["burden_score_plain"].value == pytest.approx(0.9 / 3)
    assert "cases without burden, which score 0 in Task 2: 1, e.g. y" in found.notes


def test_without_reference_burdens_there_is_task_1(tmp_path: Path) -> None:
    given = {**paip(tmp_path), "burdens": None}
    found = evaluate_paip2019(**given, resamples=0)
    assert set(found.scores) == {"jaccard_clipped", "jaccard"}
    assert "no burden_score: no reference burdens given" in found.notes


def test_reference_burdens_are_percent(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("slide_id,burden\na,80.25\nb,0\nc,100\n")
    assert read_burdens(path) == {"a": 0.8025, "b": 0, "c": 1}
    path.write_text("\ufeffWSI ID;Burden\na;80.25\n", encoding="utf-8")
    assert read_burdens(path) == {"a": 0.8025}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"b\.csv: not a CSV in UTF-8"):
        read_burdens(path)
    for text, said in {
        "slide_id,burden\na,0.8\nb,0.2\n": "look like fractions",
        "slide_id,burden\na,50\nb,120\n": "line 3: burden '120'",
        "slide_id,burden\na,\n": "line 2: burden ''",
        "slide_id,what\na,1\n": "needs columns slide_id and burden",
        "slide_id,burden\n": "needs columns",
        "slide_id,burden\na,5\na,50\n": r"b\.csv, line 3: duplicate a: remove one",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_burdens(path)


def test_a_case_without_reference_burden_is_named(tmp_path: Path) -> None:
    given = paip(tmp_path)
    given["burdens"].write_text("slide_id,burden\nx,80\nz,10\n")
    with pytest.raises(ValueError, match="no burden for y"):
        evaluate_paip2019(**given)
    given = paip(tmp_path)
    (given["prediction"] / "burdens.csv").unlink()
    with pytest.raises(ValueError, match="0 CSVs in this folder"):
        evaluate_paip2019(**given)


def test_paip_by_a_run_measures_burdens_as_the_run_does(tmp_path: Path) -> None:
    # Two squares of 80 px (320 um), 80 apart: their hull is 240 x 80 px, the burden
    # two thirds. Member u finds one of them alone: burden 1, Jaccard a half.
    squares = np.s_[10:90, 10:90], np.s_[10:90, 170:250]
    both = plane(100, 260, (squares[0], 0.9), (squares[1], 0.9))
    one = plane(100, 260, (squares[0], 0.9))
    small = {"viable_close_um": 0.0, "viable_open_um": 0.0, "min_viable_mm2": 0.01}
    run = write_run(
        tmp_path / "run",
        {"x": {"probability": both, "member:u": one}},
        changes={"outcome": {"outcome": "burden", **small}},
    )
    save(tmp_path / "truth" / "x_viable.png", both > 0, times=4)
    (tmp_path / "true.csv").write_text("slide_id,burden\nx,60\n")
    found = evaluate_paip2019(
        tmp_path / "truth", run.root, burdens=tmp_path / "true.csv", resamples=0
    )
    assert found.scores["jaccard_clipped"].value == 1
    assert found.scores["burden_score"].value == pytest.approx(
        1 - (2 / 3 - 0.6), abs=0.01
    )
    of_member = {name: score.value for name, score in found.members["u"].items()}
    assert of_member["jaccard"] == 0.5
    assert of_member["jaccard_clipped"] == of_member["burden_score"] == 0
    assert of_member["burden_score_plain"] == pytest.approx(0.5 * 0.6, abs=0.01)


def test_paip_by_networks_that_know_the_whole_tumor(tmp_path: Path) -> None:
    square, around = np.s_[10:90, 10:90], np.s_[10:90, 10:170]
    viable, whole = plane(100, 260, (square, 0.9)), plane(100, 260, (around, 0.9))
    small = {"viable_close_um": 0.0, "viable_open_um": 0.0, "min_viable_mm2": 0.01}
    knows = {"classes": ["other", "tumor", "dead"], "whole_classes": ["tumor", "dead"]}
    run = write_run(
        tmp_path / "run",
        {"x": {"probability": viable, "member:a": viable, "whole": whole}},
        changes={
            "outcome": {"outcome": "burden", **small},
            "ensemble": {"keep_members": True},
            "members": [{**member, **knows} for member in SMALL["members"]],
        },
    )
    save(tmp_path / "truth" / "x_viable.png", viable > 0, times=4)
    (tmp_path / "true.csv").write_text("slide_id,burden\nx,50\n")
    given = {"reference": tmp_path / "truth", "prediction": run.root, "resamples": 0}
    found = evaluate_paip2019(**given, burdens=tmp_path / "true.csv")
    assert found.scores["burden_score"].value == pytest.approx(1)
    assert found.members["a"]["burden_score"].value == pytest.approx(0.5)
    said = "members' burdens are by the convex hull"
    assert any(said in note for note in found.notes)
    assert not any(said in note for note in evaluate_paip2019(**given).notes)


# --- the command ---


def test_the_command_knows_the_mask_challenges(tmp_path: Path) -> None:
    given = paip(tmp_path)
    (given["reference"] / "z_viable.png").unlink()
    console = Console(width=120, file=io.StringIO(), record=True)
    places = given["reference"], given["prediction"]
    for challenge in ("masks", "digestpath2019"):
        evaluate(console, challenge, *places, resamples=0)
    evaluate(console, "paip2019", *places, burdens=given["burdens"], resamples=0)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["prediction", "jaccard", "0.7500", "-", "2", "2", "images"] in lines
    assert ["prediction", "burden_score", "0.4500", "-", "2", "2", "cases"] in lines
    assert any("auc: by the lesion area" in " ".join(line) for line in lines)
    with pytest.raises(ValueError, match="'glas': choose from camelyon16"):
        evaluate(console, "glas", *places)
