"""Refined outlines: against naive loops, and from the slide's file to its outcome."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import expit, logit

from digipath_ray.config.run import OutcomeSpec
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.outcome import refine
from digipath_ray.outcome.measure import measured_with
from digipath_ray.outcome.refine import ColorGrid, refine_heatmap, refine_square
from digipath_ray.pipeline.eager import run_eagerly
from digipath_ray.pipeline.finish import remeasure_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_finished
from digipath_ray.slide.info import SlideError
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import read_mask
from digipath_ray.verify.verify import verify_run
from tests.runs import small_config, write_cohort

METHODS = ("crf", "random-walker", "contour")
DARK, PALE = (120, 60, 140), (210, 160, 200)


def scene(
    side: int = 96, *, moved: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A dark disk, its colors with noise, and probabilities that lie beside it."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:side, :side]
    disk = (rows - side / 2) ** 2 + (cols - side / 2) ** 2 < (side / 4) ** 2
    colors = np.where(disk[..., None], DARK, PALE) + rng.normal(0, 8, (side, side, 3))
    p = ndimage.gaussian_filter(np.roll(disk, moved, 1).astype(np.float32), 4)
    return disk, colors.clip(0, 255).astype(np.uint8), p.astype(np.float32)


def heatmap_of(p: np.ndarray, covered: np.ndarray | None = None) -> Heatmap:
    weight = np.ones_like(p) if covered is None else covered.astype(np.float32)
    return Heatmap(
        channels=("probability",), data=p[None], weight=weight, mpp_x=4.0, mpp_y=4.0
    )


def iou(left: np.ndarray, right: np.ndarray) -> float:
    return float((left & right).sum() / (left | right).sum())


@pytest.mark.parametrize("method", METHODS)
def test_an_outline_beside_an_edge_of_color_moves_to_it(method: str) -> None:
    disk, colors, p = scene()
    heatmap = heatmap_of(p)
    spec = OutcomeSpec(refine=method)
    found = refine_heatmap(heatmap, lambda box: colors[box], spec)
    before = iou(heatmap.above(0.5), disk)
    assert before < 0.85
    assert iou(found, disk) > before + 0.05


@pytest.mark.parametrize("method", METHODS)
def test_colors_that_say_nothing_leave_the_outline(method: str) -> None:
    _, colors, p = scene()
    colors = np.full_like(colors, 170)
    found = refine_heatmap(
        heatmap_of(p), lambda box: colors[box], OutcomeSpec(refine=method)
    )
    assert iou(found, p >= 0.5) > 0.96


@pytest.mark.parametrize("method", METHODS)
def test_a_threshold_near_1_is_one(method: str) -> None:
    disk, colors, _ = scene()
    p = np.where(disk, 0.99995, 0.02).astype(np.float32)
    spec = OutcomeSpec(refine=method, threshold=0.9995)
    found = refine_heatmap(heatmap_of(p), lambda box: colors[box], spec)
    assert iou(found, disk) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_only_what_was_predicted_is_tumor(method: str) -> None:
    _, colors, p = scene()
    covered = np.zeros(p.shape, np.bool_)
    covered[:, :52] = True
    heatmap = heatmap_of(np.where(covered, p, 0).astype(np.float32), covered)
    found = refine_heatmap(heatmap, lambda box: colors[box], OutcomeSpec(refine=method))
    assert found.any()
    assert not found[:, 52:].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_map_without_doubt_needs_no_pixels(method: str, value: float) -> None:
    def refuse(box: object) -> np.ndarray:
        raise AssertionError("read")

    heatmap = heatmap_of(np.full((700, 40), value, np.float32))
    found = refine_heatmap(heatmap, refuse, OutcomeSpec(refine=method))
    assert (found == (value == 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_squares_answer_as_the_whole(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, colors, p = scene(160)
    spec = OutcomeSpec(refine=method, refine_um=12.0)
    whole = refine_heatmap(heatmap_of(p), lambda box: colors[box], spec)
    monkeypatch.setattr(refine, "TILE_PX", 64)
    parts = refine_heatmap(heatmap_of(p), lambda box: colors[box], spec)
    # The grid of colors begins with a square, and walks end at its halo.
    assert iou(whole, parts) > 0.98


def test_the_mean_of_the_grid_is_that_of_two_gaussians() -> None:
    """Against each pixel's sum over all others; the grid rounds places and colors."""
    disk, colors, _ = scene(32)
    known = np.ones(disk.shape, np.bool_)
    known[:, 28:] = False
    rng = np.random.default_rng(1)
    values = ndimage.gaussian_filter(rng.random(disk.shape), 2)
    reach, color = 4.0, 25.0
    rows, cols = np.nonzero(known)
    places, hues = np.stack([rows, cols], 1) / reach, colors[known] / color
    apart = ((places[:, None] - places) ** 2).sum(-1)
    apart = apart + ((hues[:, None] - hues) ** 2).sum(-1)
    weights = np.exp(-apart / 2)
    want = (weights @ values[known]) / weights.sum(1)
    grids = [ColorGrid(colors, known, reach, color, shift) for shift in (0.0, 0.5)]
    got = (sum(grid.mean(values) for grid in grids) / 2)[known]
    assert np.abs(got - want).max() < 0.25 * np.ptp(values)
    assert np.corrcoef(got, want)[0, 1] > 0.97
    assert (grids[0].mean(values)[~known] == 0).all()


def test_mean_field_is_that_of_the_naive_loop() -> None:
    disk, colors, p = scene(32, moved=2)
    known = np.ones(disk.shape, np.bool_)
    spec = OutcomeSpec(refine="crf")
    got = refine_square(p, colors, known, spec=spec, reach_px=4.0)
    rows, cols = np.nonzero(known)
    places = np.stack([rows, cols], 1).astype(float)
    apart = ((places[:, None] - places) ** 2).sum(-1)
    hues = colors[known] / spec.refine_color
    between = ((hues[:, None] - hues) ** 2).sum(-1)
    near = np.exp(-apart / 2 / (4 / 3) ** 2)
    alike = np.exp(-apart / 2 / 4.0**2 - between / 2)
    evidence = logit(p.ravel().astype(float).clip(1e-3, 1 - 1e-3))
    q = expit(evidence)
    for _ in range(5):
        pull = [2 * (k @ q) / k.sum(1) - 1 for k in (near, alike)]
        q = expit(evidence + pull[0] + pull[1])
    assert iou(got, (q >= 0.5).reshape(disk.shape)) > 0.95


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("refine", "snake"),
        ("refine_um", 0.0),
        ("refine_color", 300.0),
        ("refine_strength", -1.0),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"outcome\.{field} = "):
        OutcomeSpec(**{field: value})


def test_a_heatmap_refined_at_one_threshold_has_the_others(tmp_path: Path) -> None:
    _, _, p = scene(16)
    refined = np.zeros(p.shape, np.bool_)
    refined[3:5, 3:6] = True
    heatmap = replace(heatmap_of(p), refined=refined, refined_at=0.5)
    assert (heatmap.above(0.5) == refined).all()
    assert heatmap.area_mm2(0.5) == pytest.approx(6 * 16 / 1e6)
    assert (heatmap.above(0.4) == (p >= 0.4)).all()
    assert (heatmap.thresholded.above(0.5) == (p >= 0.5)).all()
    with pytest.raises(ValueError, match="refined has shape"):
        replace(heatmap, refined=refined[:3])


def test_means_are_of_the_level_under_each_px(tmp_path: Path) -> None:
    (row,) = write_cohort(tmp_path / "slides", 1)
    with open_slide(row.path) as slide:
        pixels = slide.read_level(0, 0, 0, slide.info.width, slide.info.height)
        assert slide.info.level_downsamples[0] == 1
        got = slide.means((8.0, 8.0), (slice(2, 6), slice(3, 9)))
        level = slide._finer_level(8.0)
        down = round(slide.info.level_downsamples[level])
        stored = slide.read_level(level, 0, 0, *slide.info.level_dimensions[level])
        beyond = slide.means((8.0, 8.0), (slice(0, 30), slice(20, 40)))
    side = 8 // down
    want = stored[2 * side : 6 * side, 3 * side : 9 * side]
    want = want.reshape(4, side, 6, side, 3).mean((1, 3))
    assert np.abs(got - want).max() <= 1
    assert (beyond[pixels.shape[0] // 8 + 1 :] == 255).all()
    assert (beyond[:, pixels.shape[1] // 8 - 20 + 1 :] == 255).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two slides, whose outlines are refined by a random field."""
    folder = tmp_path_factory.mktemp("refined")
    rows = write_cohort(folder / "slides", 2)
    run = RunDirectory(folder / "run")
    run_eagerly(run, rows, config("crf"), load_ensemble(config("crf")))
    return run


def config(method: str):
    return small_config(
        {"outcome": {"refine": method, "refine_um": 16.0, "outcome": "stage"}}
    )


def test_a_run_refines_and_measures_the_refined(finished: RunDirectory) -> None:
    record = finished.read_record("s00")
    slide = read_finished(finished, record)
    refined = read_mask(finished.refined("s00"))
    assert (slide.heatmap.above(0.5) == refined.array).all()
    assert record.outcome["tumor_mm2"] == pytest.approx(refined.area_mm2)
    listed = sum(lesion["area_mm2"] for lesion in record.lesions)
    assert listed <= refined.area_mm2 + 1e-9
    # Table 5's are of the probabilities.
    plain = slide.heatmap.thresholded
    assert not (plain.above(0.5) == refined.array).all()
    assert record.files["refined"]
    assert verify_run(finished).faults == []


def test_outlines_are_made_again_without_prediction(
    finished: RunDirectory, tmp_path: Path
) -> None:
    record = finished.read_record("s01")
    plain = config("none")
    remeasure_slide(finished, record, plain)
    record = finished.read_record("s01")
    assert not finished.refined("s01").exists()
    assert "refined" not in record.files
    assert record.measured == measured_with(plain)
    assert not {"refine", "refine_um"} & set(record.measured)
    slide = read_finished(finished, record)
    assert record.outcome["tumor_mm2"] == pytest.approx(slide.heatmap.area_mm2(0.5))
    before = record.features
    remeasure_slide(finished, record, config("contour"))
    again = finished.read_record("s01")
    assert again.features == before
    assert again.measured["refine"] == "contour"


def test_a_slide_that_is_gone_keeps_its_outcome(
    finished: RunDirectory, tmp_path: Path
) -> None:
    record = finished.read_record("s00")
    Path(record.slide.path).rename(tmp_path / "away.tif")
    try:
        with pytest.raises((SlideError, FileNotFoundError), match=r"s00\.tif"):
            remeasure_slide(finished, record, config("contour"))
        assert finished.read_record("s00") == record
        assert read_mask(finished.refined("s00")).array.any()
    finally:
        (tmp_path / "away.tif").rename(record.slide.path)


@pytest.mark.parametrize("shape", [(1, 30), (30, 1)])
def test_a_map_of_one_row_has_a_contour(shape):
    p = np.zeros(30, np.float32)
    p[8:20] = 1
    colors = np.full((*shape, 3), 200, np.uint8)
    known = np.ones(shape, np.bool_)
    spec = OutcomeSpec(refine="contour")
    found = refine_square(p.reshape(shape), colors, known, spec=spec, reach_px=2.5)
    assert found.shape == shape
    assert found.ravel()[12:16].all()
    assert not found.ravel()[[*range(5), *range(24, 30)]].any()
