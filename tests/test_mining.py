"""Mining against heatmaps and truths that are written out, pixel by pixel."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import tomli_w

from digipath_ray.annotations import Window, read_annotation
from digipath_ray.cli.app import run_app
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.toml import to_tree
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.mining.hard import Windows, find_hard
from digipath_ray.mining.regions import find_regions, region_features
from digipath_ray.mining.spec import MiningSpec
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide, read_finished
from digipath_ray.run.record import SlideRecord
from digipath_ray.run.truth import Truth, read_truth
from digipath_ray.schema import SAMPLES
from digipath_ray.tissue.mask import Mask, write_mask
from tests.records import done_of, record_of
from tests.runs import small_config

MPP = 0.243
"""Of level 0; the run is at 1 um/px, so a heatmap px (4 um) is 16.46 level-0 px."""
L0 = 4 / MPP
ROWS, COLS = 40, 48
SIZE = {"width": 790, "height": 658}
SPEC = MiningSpec(fit_patch_px=64)
"""Patches of 16 heatmap px, 8 apart."""
ALL = np.s_[:, :]
FOUND, MISSED = np.s_[8:16, 8:16], np.s_[24:32, 8:16]
ALARM, NEARLY = np.s_[4, 44], np.s_[36, 36]


def plane(*parts: tuple[Any, float]) -> np.ndarray:
    values = np.zeros((ROWS, COLS), np.float32)
    for where, value in parts:
        values[where] = value
    return values


PROBABILITY = plane((FOUND, 0.9), (MISSED, 0.1), (ALARM, 0.7), (NEARLY, 0.39))
TUMOR = plane((FOUND, 1), (MISSED, 1)) > 0


def heatmap_of(probability: np.ndarray, **more: np.ndarray) -> Heatmap:
    return Heatmap(
        channels=("probability", *more),
        data=np.stack([probability, *more.values()]),
        weight=np.ones((ROWS, COLS), np.float32),
        mpp_x=4.0,
        mpp_y=4.0,
    )


def slide_of(
    heatmap: Heatmap, *, tissue: np.ndarray | None = None, **row: Any
) -> FinishedSlide:
    row = {"annotation": "there.xml", **row}
    record = record_of(path="s.tif", mpp_x=MPP, mpp_y=MPP, **SIZE, **row)
    return FinishedSlide(
        record=record,
        heatmap=heatmap,
        tissue=np.ones((ROWS, COLS), np.bool_) if tissue is None else tissue,
        members=("a",),
    )


def mine(
    probability: np.ndarray = PROBABILITY,
    tumor: np.ndarray = TUMOR,
    *,
    ignored: Any = None,
    spec: MiningSpec = SPEC,
    **slide: Any,
):
    nothing = np.zeros((ROWS, COLS), np.bool_)
    if ignored is not None:
        nothing[ignored] = True
    truth = Truth(tumor=tumor & ~nothing, ignored=nothing)
    found = slide_of(heatmap_of(probability), **slide)
    return find_hard(found, truth, downsample=4, spec=spec)


def corners(table) -> list[tuple[int, int]]:
    return list(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))


MISSED_AT = [(0, 263), (132, 263), (0, 395), (132, 395)]
"""Columns 0 and 8, rows 16 and 24, times 16.46: each holds all of MISSED."""
ALARM_AT = (527, 0)
"""Column 32, row 0: the only window over ALARM."""


def test_just_the_patches_that_are_wrong_come_out_where_they_lie() -> None:
    hard = mine()
    assert hard.table.schema.equals(SAMPLES)
    assert corners(hard.table) == [*MISSED_AT, ALARM_AT]
    assert hard.table["tumor"].to_pylist() == [0.25, 0.25, 0.25, 0.25, 0]
    assert hard.table["area_mm2"].to_pylist() == pytest.approx([0.032**2] * 5)
    # Dice 0, and the mean of a patch in which one of 256 px has 0.7.
    assert hard.hardness.tolist() == pytest.approx([1, 1, 1, 1, 0.7 / 256])
    assert (hard.looked_at, hard.tumor, hard.alarms) == (4 * 5, 4, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"alarm_at": 0.39}, 5 + 2),  # NEARLY is seen from columns 24 and 32
        ({"alarm_at": 0.71}, 4),
        ({"dice_at": 0.1}, 1),
        ({"per_slide": 3}, 3 + 1),
    ],
)
def test_the_thresholds_decide(changes: dict[str, float], expected: int) -> None:
    assert len(mine(spec=MiningSpec(fit_patch_px=64, **changes)).table) == expected


def test_a_small_lesion_is_an_alarm_only_beside_it() -> None:
    lesion = np.s_[4:7, 40:44]  # 12 of 256 px: 4.7 %
    tumor = plane((lesion, 1)) > 0
    right = plane((lesion, 0.9))
    assert len(mine(right, tumor).table) == 0
    # One px too many: Dice 24/25 is no miss, but there is a false alarm.
    beside = plane((lesion, 0.9), (np.s_[4, 44], 0.9))
    found = mine(beside, tumor)
    assert (found.tumor, found.alarms) == (0, 1)
    wider = np.s_[4:7, 39:44]  # 5.9 %
    assert mine(plane((wider, 0.9), (ALARM, 0.9)), plane((wider, 1)) > 0).alarms == 0


def test_what_nobody_knows_is_no_mistake() -> None:
    # Not exhaustive: what is not marked may be tumor.
    assert corners(mine(exhaustive=False).table) == MISSED_AT
    assert corners(mine(ignored=ALARM).table) == MISSED_AT
    assert corners(mine(ignored=MISSED).table) == [ALARM_AT]
    negative = mine(tumor=TUMOR & False, annotation=None, label="negative")
    assert negative.tumor == 0
    # FOUND is seen from rows 0 and 8 and columns 0 and 8, ALARM as before.
    assert corners(negative.table) == [(0, 0), (132, 0), (0, 132), (132, 132), ALARM_AT]


def test_glass_is_not_looked_at_nor_what_was_not_predicted() -> None:
    tissue = np.ones((ROWS, COLS), np.bool_)
    tissue[:16, 32:] = False
    found = mine(tissue=tissue)
    assert corners(found.table) == MISSED_AT
    assert found.looked_at == 4 * 5 - 1


@pytest.mark.parametrize("shape", [(40, 48), (37, 50), (16, 16), (9, 20)])
def test_sums_of_windows_are_those_of_a_loop(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(shape)
    windows = Windows.over(shape, 16)
    expected = [
        [values[y : y + 16, x : x + 16].sum() for x in windows.lefts]
        for y in windows.tops
    ]
    assert np.allclose(windows.sums(values), expected)
    covered = np.zeros(shape, np.bool_)
    for y in windows.tops:
        for x in windows.lefts:
            covered[y : y + 16, x : x + 16] = True
    assert covered.all()


def test_windows_end_flush_with_the_heatmap() -> None:
    windows = Windows.over((37, 9), 16)
    assert windows.tops.tolist() == [0, 8, 16, 21]
    assert windows.lefts.tolist() == [0]


# --- regions ---

HOT, WARM = np.s_[4:20, 6:22], np.s_[20:36, 28:44]
RING = np.zeros((ROWS, COLS), np.bool_)
RING[8:14, 8:14] = True
RING[10:12, 10:12] = False
UNSURE = plane((HOT, 0.2), (WARM, 0.1))


def uncertain_slide(**more: np.ndarray) -> FinishedSlide:
    p = plane((RING, 0.8), (np.s_[0:40, 43:48], 0.6))
    return slide_of(heatmap_of(p, epistemic=UNSURE, **more))


def test_regions_are_the_most_uncertain_squares_and_do_not_overlap() -> None:
    found = find_regions(uncertain_slide(), "epistemic", top=5, region_um=64)
    assert [(r.row, r.col, r.rows, r.cols) for r in found] == [
        (4, 6, 16, 16),
        (20, 28, 16, 16),
    ]
    assert [r.uncertainty for r in found] == pytest.approx([0.2, 0.1])
    # 32 px of the ring, and a column of 16 at 0.6.
    assert [r.probability for r in found] == pytest.approx(
        [32 * 0.8 / 256, 16 * 0.6 / 256]
    )


def test_glass_is_never_uncertain_and_both_maps_add_up() -> None:
    aleatoric = plane((WARM, 0.3))
    slide = uncertain_slide(aleatoric=aleatoric)
    (first,) = find_regions(slide, "both", top=1, region_um=64)
    assert (first.row, first.col) == (20, 28)
    assert first.uncertainty == pytest.approx(0.4)
    glass = slide_of(slide.heatmap, tissue=plane((HOT, 1)) > 0)
    assert find_regions(glass, "aleatoric", top=1, region_um=64) == []


def test_a_map_that_the_run_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="--map both: the run has epistemic: choose"):
        find_regions(uncertain_slide(), "both", top=1, region_um=64)


def test_a_region_is_as_large_as_a_slide_has_room_for() -> None:
    (whole,) = find_regions(uncertain_slide(), "epistemic", top=5, region_um=1e4)
    assert (whole.row, whole.col, whole.rows, whole.cols) == (0, 0, ROWS, COLS)


def test_exported_outlines_come_back_as_the_same_pixels(tmp_path: Path) -> None:
    slide = uncertain_slide()
    regions = find_regions(slide, "epistemic", top=2, region_um=64)
    features = region_features(slide, regions, "epistemic", threshold=0.5)
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    back = read_annotation(path, slide=slide)
    expected = np.zeros((ROWS, COLS), np.bool_)
    expected[RING] = True
    expected[20:36, 43] = True
    seen = back.tumor(Window(0, 0, COLS, ROWS, l0_per_px_x=L0, l0_per_px_y=L0))
    assert np.array_equal(seen, expected)
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features]
    assert all(shape.is_valid for shape in shapes)
    drawn = [s for s, f in zip(shapes, features, strict=True) if class_of(f) == "Tumor"]
    assert shapely.equals(shapely.union_all(drawn), back.geometry)
    # Coordinates have two decimals.
    assert back.area_px == pytest.approx((32 + 16) * L0**2, rel=2e-4)


def class_of(feature: Mapping[str, Any]) -> str:
    return str(feature["properties"]["classification"]["name"])


def test_a_region_is_a_frame_with_outlines_that_can_be_edited() -> None:
    slide = uncertain_slide()
    regions = find_regions(slide, "epistemic", top=1, region_um=64)
    frame, ring = region_features(slide, regions, "epistemic", threshold=0.5)
    assert [class_of(f) for f in (frame, ring)] == ["Region*", "Tumor"]
    assert len(ring["geometry"]["coordinates"]) == 2  # its hole is kept
    box = shapely.geometry.shape(frame["geometry"])
    # Columns 6 to 22 and rows 4 to 20, times 16.46.
    assert box.bounds == pytest.approx((98.77, 65.84, 362.14, 329.22), abs=0.01)
    assert len(frame["geometry"]["coordinates"][0]) == 5
    told = frame["properties"]
    assert told["isLocked"] is False
    assert ring["properties"]["isLocked"] is False
    assert told["measurements"] == {
        "Mean uncertainty (epistemic)": pytest.approx(0.2),
        "Mean probability": pytest.approx(0.1),
    }


def test_no_outline_goes_beyond_the_slide() -> None:
    slide = slide_of(heatmap_of(plane((ALL, 0.9)), epistemic=plane((ALL, 0.1))))
    regions = find_regions(slide, "epistemic", top=1, region_um=1e4)
    frame, tumor = region_features(slide, regions, "epistemic", threshold=0.5)
    for feature in (frame, tumor):
        box = shapely.geometry.shape(feature["geometry"])
        assert box.bounds == (0, 0, 790, 658)  # 48 and 40 px are a little more


# --- the command ---


def write_run(folder: Path, slides: Sequence[Mapping[str, Any]]) -> RunDirectory:
    """A finished run: each slide with the heatmap above, and what its row says."""
    run = RunDirectory(folder)
    run.create()
    members = [
        {"name": n, "architecture": "Unet", "encoder": "resnet18"} for n in ("a", "b")
    ]
    config = small_config({"members": members, "ensemble": {"tta": ["identity"]}})
    run.settings.write_text(tomli_w.dumps(to_tree(config)))
    for row in slides:
        slide_id = row["slide_id"]
        heatmap = heatmap_of(PROBABILITY, epistemic=UNSURE)
        write_heatmap(run.heatmap(slide_id), heatmap, name=slide_id)
        whole = np.ones((20, 24), np.bool_)
        write_mask(run.mask(slide_id), Mask(array=whole, mpp_x=8.0, mpp_y=8.0))
        fields = {"path": f"{slide_id}.tif", "mpp_x": MPP, "mpp_y": MPP, **SIZE, **row}
        run.write_record(done_of(record_of(**fields), members={"a": "x"}))
    return run


def write_truth(path: Path) -> Path:
    """FOUND and MISSED as QuPath has them, level-0 px."""
    shapes = [shapely.box(8 * L0, t * L0, 16 * L0, (t + 8) * L0) for t in (8, 24)]
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": {"classification": {"name": "Tumor"}},
        }
        for shape in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    annotation = str(write_truth(tmp_path / "truth.geojson"))
    known = {"annotation": annotation}
    slides = [
        {**known, "slide_id": "seen", "seen_by": ["b", "a"]},
        {**known, "slide_id": "new", "seen_by": ["b"]},  # which did not predict it
        {"slide_id": "unlabeled"},
        {**known, "slide_id": "test", "split": "test"},
    ]
    return write_run(tmp_path / "run", slides)


def test_a_slide_comes_back_as_the_manifest_had_it(run: RunDirectory) -> None:
    record = run.read_done()["test"]
    slide = read_finished(run, record).record
    assert (slide.slide_id, slide.path, slide.split) == ("test", "test.tif", "test")
    assert slide.mpp is None
    given = {**slide.to_row(), "mpp_source": "manifest"}
    assert SlideRecord.from_row(given).mpp == MPP


def test_truth_is_read_at_the_heatmaps_pixels(tmp_path: Path) -> None:
    path = str(write_truth(tmp_path / "truth.geojson"))
    slide = slide_of(heatmap_of(PROBABILITY), annotation=path)
    truth = read_truth(slide, AnnotationSpec())
    assert np.array_equal(truth.tumor, TUMOR)
    assert not truth.ignored.any()


def test_the_command_writes_hard_patches_and_says_what_it_saw(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hard.parquet"
    given = ["mine", str(run.root), "--out", str(out), "--fit-patch-px", "64"]
    assert run_app(given) == 0
    table = pq.read_table(out)
    assert table.schema.equals(SAMPLES)
    ids = np.array(table["slide_id"].to_pylist())
    assert set(ids) == {"seen", "new"}
    for slide_id in ("seen", "new"):
        mine_ = table.filter(ids == slide_id)
        assert corners(mine_) == [*MISSED_AT, ALARM_AT]
    # The hardest come first, whatever their slide.
    assert table["tumor"].to_pylist() == [0.25] * 8 + [0, 0]
    said = capsys.readouterr().out
    assert "2 slides, 40 patches of 64 px looked at: 8 hard for their tumor" in said
    assert "2 for a false alarm" in said
    assert "1 of 2 slides, e.g. seen, were predicted by members fitted on" in said
    assert "1 slide held back for the test" in said
    assert "no card of a, b: it is unknown" in said
    assert "1 slide neither annotated nor negative" in said


def test_classes_say_what_annotations_mean(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.geojson"
    truth.write_text(truth.read_text().replace('"Tumor"', '"Odd"'))
    given = ["mine", str(run.root), "--out", str(tmp_path / "hard.parquet")]
    given += ["--fit-patch-px", "64"]
    assert run_app(given) == 1
    assert run_app([*given, "--classes", "Odd=tumor,Other=skip"]) == 0
    assert "8 hard for their tumor" in capsys.readouterr().out


def test_the_command_exports_regions_and_never_writes_over_corrections(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "regions"
    given = ["mine", str(run.root), "--uncertain", str(folder), "--region-um", "64"]
    assert run_app(given) == 0
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["new.geojson", "seen.geojson", "unlabeled.geojson"]
    first = (folder / "new.geojson").read_bytes()
    tree = json.loads(first)
    assert [class_of(f) for f in tree["features"]].count("Region*") == 2
    tree["features"].pop()
    corrected = json.dumps(tree)
    (folder / "seen.geojson").write_text(corrected)
    assert run_app(given) == 1
    assert (folder / "seen.geojson").read_text() == corrected
    assert (folder / "new.geojson").read_bytes() == first
    assert (
        "contains corrections, which are never overwritten" in capsys.readouterr().out
    )


def test_a_slide_that_cannot_be_read_does_not_stop_the_others(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.heatmap("seen").write_bytes(b"no TIFF")
    run.heatmap("unlabeled").unlink()
    out = tmp_path / "hard.parquet"
    given = ["mine", str(run.root), "--out", str(out), "--fit-patch-px", "64"]
    assert run_app(given) == 1
    assert set(pq.read_table(out)["slide_id"].to_pylist()) == {"new"}
    assert "failed seen: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to do: give --out"),
        (["--out", "h.parquet", "--fit-patch-px", "60"], "give a multiple of 8"),
        (["--out", "h.parquet", "--dice", "1.5"], "dice = 1.5"),
        (["--out", "h.parquet", "--classes", "Odd"], "annotations.classes = 'Odd'"),
        (["--uncertain", "r", "--map", "aleatoric"], "the run has epistemic"),
        (["--uncertain", "r", "--top", "0"], "top = 0: at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_app(["mine", str(run.root), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "h.parquet").exists()
    assert not (tmp_path / "r").exists()


def test_a_directory_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["mine", str(tmp_path), "--out", str(tmp_path / "h.parquet")]) == 2
    assert "no finished run" in capsys.readouterr().err
