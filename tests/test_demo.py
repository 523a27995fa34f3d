"""The demo's slides hold what they say, and its ensemble finds it."""

import csv
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from skimage.measure import regionprops

from digipath_ray.artifacts.file import read_artifacts
from digipath_ray.cli.app import run_app
from digipath_ray.config.toml import load_config
from digipath_ray.demo.anatomy import Label, lay_anatomy
from digipath_ray.demo.cohort import (
    COLUMNS,
    damage,
    demo_slides,
    write_pyramid,
)
from digipath_ray.demo.drawing import DemoSlide, draw_slide
from digipath_ray.demo.fit_cohort import brief_slides, fit_slides
from digipath_ray.demo.painting import EOSIN_OD, HEMATOXYLIN_OD
from digipath_ray.demo.score import SlideScore, dice_of, score_run
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.networks.card import ModelCard, read_card
from digipath_ray.networks.notes import overlay_notes
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.files import file_digest
from digipath_ray.training.directory import FitDirectory
from tests.benchmarks import demo_quality
from tests.runs import RAY_WARNINGS

PROJECT = Path(__file__).parents[1]
WEIGHTS = PROJECT / "digipath_ray" / "demo" / "weights"
MICRO = DemoSlide(
    slide_id="small",
    patient_id="p",
    node=1,
    label="micro",
    seed=11,
    width=1792,
    height=1536,
    tissue_mm=(1.5, 1.25),
)
Mask = NDArray[np.bool_]
Image8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def micro() -> tuple[Image8, Mask]:
    return draw_slide(MICRO)


def shrink(rgb: Image8) -> NDArray[np.float32]:
    """RGB in 0..1 at 4 um/px."""
    rows, cols = rgb.shape[0] // 4, rgb.shape[1] // 4
    return rgb.reshape(rows, 4, cols, 4, 3).mean((1, 3), dtype=np.float32) / 255


def extent_mm(truth: Mask) -> float:
    (lesion,) = regionprops(truth.astype(np.uint8))
    return float(lesion.feret_diameter_max) * 0.004


def test_slide_reads_back_with_its_mpp_levels_and_colors(
    tmp_path: Path, micro: tuple[Image8, Mask]
) -> None:
    rgb = micro[0].copy()
    rgb[:256, :256] = (200, 90, 160)
    write_pyramid(tmp_path / "s.tif", rgb)
    with open_slide(tmp_path / "s.tif") as slide:
        assert slide.info.need_mpp() == pytest.approx((1.0, 1.0), rel=1e-6)
        sizes = ((1792, 1536), (448, 384), (112, 96))
        assert slide.info.level_dimensions == sizes
        back = slide.read_level(0, 0, 0, 1792, 1536)
        coarse = slide.read_level(1, 0, 0, 448, 384)
    assert np.abs(back[64:192, 64:192].mean((0, 1)) - (200, 90, 160)).max() < 2
    assert np.abs(back.astype(int) - rgb).mean() < 4
    assert np.abs(coarse / 255 - shrink(rgb)).mean() < 0.02


def test_same_seed_draws_the_same_slide_and_another_seed_another(
    micro: tuple[Image8, Mask],
) -> None:
    again, truth = draw_slide(MICRO)
    assert np.array_equal(again, micro[0])
    assert np.array_equal(truth, micro[1])
    assert demo_slides(7) == demo_slides(7)
    seeds = {s.seed for s in demo_slides(7)} | {s.seed for s in demo_slides(8)}
    assert len(seeds) == 10


def test_same_pixels_give_the_same_file(
    tmp_path: Path, micro: tuple[Image8, Mask]
) -> None:
    for name in ("a.tif", "b.tif"):
        write_pyramid(tmp_path / name, micro[0][:512, :512])
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("label", "low", "high"),
    [("itc", 0.05, 0.15), ("micro", 0.5, 1.0), ("macro", 2.4, 3.0)],
)
def test_planted_lesions_are_of_their_class_for_any_seed(
    label: Label, low: float, high: float, seed: int
) -> None:
    anatomy = lay_anatomy(
        (1024, 1152),
        tissue_mm=(3.7, 2.8),
        label=label,
        rng=np.random.default_rng(seed),
    )
    truth = anatomy.lesion > 0
    assert low <= extent_mm(truth) <= high
    assert not (truth & (anatomy.node < 0)).any()


def test_lesion_that_finds_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="label 'micro': no tissue at 480 to 620 um"):
        lay_anatomy(
            (256, 256),
            tissue_mm=(0.8, 0.6),
            label="micro",
            rng=np.random.default_rng(0),
        )


def test_damaged_slide_opens_and_then_cannot_be_read(
    tmp_path: Path, micro: tuple[Image8, Mask]
) -> None:
    path = tmp_path / "s.tif"
    write_pyramid(path, micro[0])
    damage(path)
    with open_slide(path) as slide:
        assert slide.info.mpp_x == pytest.approx(1.0)
        with pytest.raises(SlideError, match="cannot be read") as caught:
            slide.read_level(0, 0, 0, 1792, 1536)
    assert "copy it again" in caught.value.hint


def test_size_that_no_pyramid_level_divides_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 px: sides must be multiples of 16"):
        DemoSlide(slide_id="s", patient_id="p", node=1, label="itc", seed=0, width=1000)


def test_every_seed_of_a_fit_draws_other_slides_than_the_demo() -> None:
    drawn = [fit_slides(), brief_slides()]
    drawn += [demo_slides(seed) for seed in demo_quality.SEEDS]
    seeds = [s.seed for slides in drawn for s in slides]
    assert len(seeds) == len(set(seeds)) == 30 + 4 + 3 * 5
    names = [s.slide_id for slides in drawn[:2] for s in slides]
    assert len(set(names)) == 34
    assert not any(s.damaged for s in fit_slides())


def cards() -> dict[Path, ModelCard]:
    return {path: read_card(path) for path in sorted(WEIGHTS.glob("*.safetensors"))}


def test_packaged_weights_are_what_their_cards_say() -> None:
    found = cards()
    assert {card.architecture for card in found.values()} == {
        "Unet",
        "Linknet",
        "DeepLabV3Plus",
    }
    for path, card in found.items():
        assert card.name == path.stem
        assert card.digest == file_digest(path)
        assert card.license == "Apache-2.0"
        assert "synthetic slides" in card.notes
        halves = [t.dtype for t in load_file(path).values() if t.dtype.kind == "f"]
        assert set(halves) == {np.dtype("float16")}
    assert sum(p.stat().st_size for p in WEIGHTS.iterdir()) < 15e6


def test_packaged_weights_have_not_seen_the_demos_slides() -> None:
    fitted = {slide.slide_id for slide in fit_slides()}
    for card in cards().values():
        assert len(card.training_patients) == 8
        seen = {*card.training_slides, *card.training["validation_slides"]}
        assert seen == fitted


def test_packaged_weights_are_those_of_the_recipe() -> None:
    recipe = resolve_recipe(load_config(path=PROJECT / "jobs" / "demo.toml"))
    for spec, card in zip(
        recipe.members,
        (read_card(WEIGHTS / f"{m.name}.safetensors") for m in recipe.members),
        strict=True,
    ):
        assert spec.weights == card.training["start"] == "random"
        keys = ("architecture", "encoder", "options", "mean", "std")
        assert all(getattr(spec, k) == getattr(card, k) for k in keys)
        assert (recipe.grid.mpp, recipe.grid.patch_px) == (card.mpp, card.patch_px)
        for section in ("sampling", "augment", "loss"):
            # Fitted before [augment] hed was called stain.
            noted = {
                "stain" if key == "hed" else key: value
                for key, value in card.training[section].items()
            }
            assert asdict(getattr(recipe, section)) == noted


def test_demo_ensemble_is_named_on_every_overlay() -> None:
    config = resolve(load_config(preset="demo"))
    assert [m.digest for m in config.members] == [c.digest for c in cards().values()]
    assert overlay_notes(config) == [
        "demo networks, fitted on synthetic slides: not for real slides",
        "for research use only",
    ]


def test_scores_are_areas_shared_by_truth_and_finding() -> None:
    common = {
        "slide_id": "s",
        "label": "micro",
        "metastasis": "micro",
        "tissue_mm2": 4.0,
    }
    one = SlideScore(tumor_mm2=1.0, found_mm2=0.8, shared_mm2=0.6, **common)
    two = SlideScore(tumor_mm2=0.0, found_mm2=0.2, shared_mm2=0.0, **common)
    assert dice_of([one]) == pytest.approx(1.2 / 1.8)
    assert dice_of([one, two]) == pytest.approx(1.2 / 2.0)
    assert np.isnan(dice_of([two]))
    assert one.false_share == pytest.approx(0.05)


def test_hematoxylin_of_known_dyes_is_given_back() -> None:
    density = 0.8 * np.array(HEMATOXYLIN_OD) + 0.3 * np.array(EOSIN_OD)
    rgb = np.rint(256 * np.exp(-density)).astype(np.uint8).reshape(1, 1, 3)
    found = demo_quality.hematoxylin(rgb)
    np.testing.assert_allclose(found, [[0.8]], atol=0.02)


def test_best_threshold_separates_what_is_darker_and_no_more() -> None:
    truth = np.zeros((32, 32), np.bool_)
    truth[8:24, 8:24] = True
    tissue = np.ones_like(truth)
    rgb = np.full((128, 128, 3), 220, np.uint8)
    alike = demo_quality.measure_darkness(rgb, truth, tissue)
    # A quarter of the tissue is tumor: all of it found gives 2 * 1/4 / (1 + 1/4).
    assert alike.best() == (pytest.approx(0.4), 0)
    rgb[32:96, 32:96] = 90
    darker = demo_quality.measure_darkness(rgb, truth, tissue)
    assert darker.best() == (pytest.approx(1.0), 0)
    assert (alike + darker).best()[0] < 0.7


@pytest.mark.slow
def test_cohort_is_two_patients_with_all_four_classes(demo_cohort: Path) -> None:
    with demo_cohort.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    labels = [(row["patient_id"], row["label"]) for row in rows]
    assert labels == [
        ("patient_1", "macro"),
        ("patient_1", "negative"),
        ("patient_2", "micro"),
        ("patient_2", "itc"),
        ("patient_2", "negative"),
    ]
    limits = {"macro": (2.4, 3.0), "micro": (0.5, 1.0), "itc": (0.05, 0.15)}
    for row in rows:
        if row["label"] == "negative":
            assert row["annotation"] == ""
            continue
        truth = np.asarray(Image.open(demo_cohort.parent / row["annotation"]))
        assert set(np.unique(truth)) == {0, 255}
        low, high = limits[row["label"]]
        assert low <= extent_mm(truth > 0) <= high


with_ray = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings(RAY_WARNINGS),
]


class TestDemoRun:
    """One run, looked at from all sides."""

    pytestmark = with_ray

    def test_ends_well_and_says_what_it_is(self, demo) -> None:
        out, code, words = demo
        assert code == 0
        for text in ("Dice", "damaged on purpose", "fitted on synthetic slides"):
            assert text in words
        # patient_2 lacks the node whose slide is damaged.
        for stage in (r"patient_1 +pN1 ", r"patient_2 +at least pN1mi "):
            assert re.search(stage, words)
        assert (out / "run" / "report.html").exists()
        assert len(list((out / "run" / "overlays").glob("*.png"))) == 4

    def test_the_folded_slide_is_known(self, demo) -> None:
        out, _, words = demo
        assert "Tissue of patient_1_node_2 that cannot be trusted:" in words
        assert "of it is folded" in words
        run = RunDirectory(out / "run")
        for path in (out / "run" / "artifacts").glob("*.png"):
            folds = read_artifacts(run.artifacts(path.stem)).where("fold")
            assert folds.any() == (path.stem == "patient_1_node_2")

    def test_finds_the_lesions_and_little_else(self, demo, demo_cohort: Path) -> None:
        config = resolve(load_config(preset="demo"))
        threshold = config.outcome.threshold
        scores = score_run(
            RunDirectory(demo[0] / "run"), demo_cohort, threshold=threshold
        )
        assert [s.label for s in scores] == ["macro", "negative", "micro", "itc"]
        assert [s.metastasis for s in scores] == [s.label for s in scores]
        by_label = {s.label: s for s in scores}
        assert dice_of([by_label["macro"]]) >= 0.9
        assert dice_of([by_label["micro"]]) >= 0.9
        assert dice_of(scores) >= 0.9
        assert by_label["itc"].shared_mm2 > 0.5 * by_label["itc"].tumor_mm2
        assert max(s.false_share for s in scores) < 0.01

    def test_best_threshold_on_hematoxylin_does_not(
        self, demo, demo_cohort: Path
    ) -> None:
        run = RunDirectory(demo[0] / "run")
        darkness = demo_quality.measure_thresholds(run, demo_cohort)
        assert len(darkness) == 4
        assert demo_quality.pool(darkness).best()[0] < 0.6

    def test_both_uncertainties_are_there(self, demo) -> None:
        heatmap = read_heatmap(
            RunDirectory(demo[0] / "run").heatmap("patient_1_node_1")
        )
        assert heatmap.epistemic is not None
        assert heatmap.aleatoric is not None
        assert heatmap.epistemic.max() > 1e-3
        assert heatmap.aleatoric.max() > 1e-3


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_training_is_shown_and_not_used(tmp_path: Path, ray_here, capsys) -> None:
    assert run_app(["demo", "--train", "--out", str(tmp_path)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for text in ("epoch 0, loss", "epoch 2, loss", "Nothing uses these weights"):
        assert text in words
    epochs = FitDirectory(tmp_path / "fit").read_history("linknet-mobilenetv3")
    assert len(epochs) == 3
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert (tmp_path / "fit" / "curves" / "linknet-mobilenetv3.png").exists()
    assert not (tmp_path / "run").exists()
