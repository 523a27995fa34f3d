"""The demo's slides hold what they say, and its members find it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import regionprops

from digipath_ray.demo.anatomy import Label, lay_anatomy
from digipath_ray.demo.cohort import (
    COLUMNS,
    build_demo_cohort,
    damage,
    demo_slides,
    write_pyramid,
)
from digipath_ray.demo.drawing import DemoSlide, draw_slide
from digipath_ray.demo.members import (
    DEMO_ARCHITECTURES,
    Blur,
    NucleusDensity,
    NucleusTexture,
    Unmix,
    opening,
)
from digipath_ray.slide import SlideError, open_slide

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


def find_tissue(rgb: Image8) -> Mask:
    """Colored px at 4 um/px, but for blue ink."""
    small = shrink(rgb)
    saturation = 1 - small.min(2) / small.max(2)
    ink = (small[..., 0] < small[..., 1]) & (saturation > 0.1)
    closed = ndimage.binary_closing((saturation > 0.06) & ~ink, iterations=10)
    return ndimage.binary_opening(closed, iterations=5)


def probability(member: torch.nn.Module, patch: Image8) -> NDArray[np.float32]:
    """Mean over identity and horizontal flip [2 transforms, H/4, W/4]."""
    x = torch.from_numpy(patch).permute(2, 0, 1)[None].float() / 255
    answers = []
    with torch.inference_mode():
        for flip in (False, True):
            logits = member(x.flip(3) if flip else x)
            p = torch.nn.functional.avg_pool2d(logits.softmax(1)[:, 1:], 4)[0, 0]
            answers.append(p.flip(1) if flip else p)
    return torch.stack(answers).numpy()


def heatmap(rgb: Image8, tissue: Mask) -> NDArray[np.float32]:
    """The members' mean at 4 um/px: patch 256, stride 128, identity and flip."""
    members = [make().eval() for make in DEMO_ARCHITECTURES.values()]
    total, weight = np.zeros(tissue.shape), np.zeros(tissue.shape)
    reach = ndimage.binary_dilation(tissue, iterations=8)
    for row in range(0, tissue.shape[0] - 63, 32):
        for col in range(0, tissue.shape[1] - 63, 32):
            here = (slice(row, row + 64), slice(col, col + 64))
            if reach[here].any():
                patch = rgb[4 * row : 4 * row + 256, 4 * col : 4 * col + 256]
                total[here] += np.mean([probability(m, patch) for m in members], (0, 1))
                weight[here] += 1
    return (total / np.maximum(weight, 1)).astype(np.float32)


def dice(found: Mask, truth: Mask) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def best_threshold_dice(values: NDArray[np.float32], truth: Mask) -> float:
    """Dice at the best of all thresholds, chosen on the truth itself."""
    hits = np.cumsum(truth[np.argsort(-values)])
    return float((2 * hits / (np.arange(1, hits.size + 1) + truth.sum())).max())


def hematoxylin(rgb: Image8, sigma: float) -> NDArray[np.float32]:
    """Smoothed hematoxylin at 4 um/px."""
    x = torch.from_numpy(shrink(rgb)).permute(2, 0, 1)[None]
    return ndimage.gaussian_filter(Unmix()(x)[0, 0].numpy(), sigma)


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
    with pytest.raises(ValueError, match="label 'micro': no tissue lies 480 to 620 um"):
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


def test_members_find_the_lesion_where_a_threshold_does_not(
    micro: tuple[Image8, Mask],
) -> None:
    rgb, truth = micro
    tissue = find_tissue(rgb)
    found = heatmap(rgb, tissue) >= 0.5
    assert dice(found, truth) > 0.8
    decoys = ~ndimage.binary_dilation(truth, iterations=12)
    assert (found & decoys).sum() < 0.02 * tissue.sum()
    for sign in (1, -1):
        values = sign * hematoxylin(rgb, 5)[tissue]
        assert best_threshold_dice(values, truth[tissue]) < 0.6


def test_members_disagree_and_one_depends_on_flips(
    micro: tuple[Image8, Mask],
) -> None:
    rgb, truth = micro
    row, col = (4 * np.argwhere(truth).mean(0)).astype(int) - 128
    patch = rgb[row : row + 256, col : col + 256]
    answers = [probability(make(), patch) for make in DEMO_ARCHITECTURES.values()]
    flips = {
        name: float(answer.var(axis=0).max())
        for name, answer in zip(DEMO_ARCHITECTURES, answers, strict=True)
    }
    assert flips["NucleusTexture"] > 1e-3
    assert flips["NucleusScale"] < 1e-6
    assert flips["NucleusDensity"] < 1e-6
    assert np.mean(answers, axis=1).var(axis=0).max() > 1e-3


@pytest.mark.parametrize("make", DEMO_ARCHITECTURES.values())
@pytest.mark.parametrize("size", [(256, 256), (33, 50)])
def test_member_answers_every_pixel_of_a_batch(
    make: type[torch.nn.Module], size: tuple[int, int]
) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both, alone = make()(x), make()(x[1:])
    assert both.shape == (2, 2, *size)
    assert torch.isfinite(both).all()
    torch.testing.assert_close(both[1:], alone)


@pytest.mark.parametrize("make", DEMO_ARCHITECTURES.values())
@pytest.mark.parametrize("color", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.1, 0.3, 0.7)])
def test_glass_black_and_ink_are_no_tumor(
    make: type[torch.nn.Module], color: tuple[float, float, float]
) -> None:
    x = torch.tensor(color).reshape(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.inference_mode():
        assert make()(x).softmax(1)[:, 1].max() < 0.01


def test_members_constants_travel_with_their_state() -> None:
    state = NucleusTexture().state_dict()
    assert set(state) == {"weight", "bias", "unmix.spectra"}
    other = NucleusTexture()
    other.bias.zero_()
    other.load_state_dict(state)
    assert torch.equal(other.bias, NucleusTexture().bias)


def test_unmix_gives_the_densities_back() -> None:
    density = 0.8 * torch.tensor([0.62, 0.70, 0.35]) + 0.3 * torch.tensor(
        [0.16, 0.84, 0.48]
    )
    rgb = torch.exp(-density).reshape(1, 3, 1, 1)
    expected = torch.tensor([0.8, 0.3]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(Unmix()(rgb), expected)


def test_blur_keeps_a_constant_up_to_the_edge_and_spreads_a_point() -> None:
    flat = torch.full((1, 1, 9, 12), 0.7)
    torch.testing.assert_close(Blur(2.0)(flat), flat)
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1.0
    expected = ndimage.gaussian_filter(point[0, 0].numpy(), 2.0, truncate=3.0)
    np.testing.assert_allclose(Blur(2.0)(point)[0, 0].numpy(), expected, atol=1e-6)


def test_opening_keeps_runs_along_the_main_diagonal_alone() -> None:
    along = torch.zeros(12, 12)
    for i in range(5):
        along[3 + i, 2 + i] = 1.0
    assert torch.equal(opening(along[None, None], 5)[0, 0], along)
    assert opening(along[None, None], 6).max() == 0
    assert opening(along.flip(1)[None, None], 2).max() == 0


def test_density_counts_separate_nuclei() -> None:
    rows, cols = np.mgrid[:128, :128]
    pits = np.cos(2 * np.pi * rows / 16) * np.cos(2 * np.pi * cols / 16)
    density = torch.from_numpy((0.5 + 0.4 * pits).astype(np.float32))[None, None]
    mean = torch.full((1, 1, 32, 32), 0.5)
    count, _ = NucleusDensity().measure(density, mean)
    # Two maxima in every 16 x 16 px (um2), and the floor of 0.05.
    assert float(count[0, 0, 16, 16]) == pytest.approx(np.log(2000 / 256 + 0.05), 0.02)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_cohort(tmp_path_factory.mktemp("demo"), seed=7)


@pytest.mark.slow
def test_cohort_is_two_patients_with_all_four_classes(cohort: Path) -> None:
    with cohort.open(newline="") as file:
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
        truth = np.asarray(Image.open(cohort.parent / row["annotation"]))
        assert set(np.unique(truth)) <= {0, 255}
        if row["label"] == "negative":
            assert not truth.any()
        else:
            low, high = limits[row["label"]]
            assert low <= extent_mm(truth > 0) <= high


@pytest.mark.slow
def test_cohort_is_solved_by_the_members_alone(cohort: Path) -> None:
    hits, found_px, true_px = 0, 0, 0
    values: dict[int, list[NDArray[np.float32]]] = {1: [], -1: []}
    truths = []
    for slide in demo_slides(7):
        if slide.damaged:
            continue
        with open_slide(cohort.parent / "slides" / f"{slide.slide_id}.tif") as opened:
            rgb = opened.read_level(0, 0, 0, slide.width, slide.height)
        truth_path = cohort.parent / "truth" / f"{slide.slide_id}.png"
        truth = np.asarray(Image.open(truth_path)) > 0
        tissue = find_tissue(rgb)
        found = heatmap(rgb, tissue) >= 0.5
        decoys = ~ndimage.binary_dilation(truth, iterations=12)
        assert (found & decoys).sum() < 0.02 * tissue.sum(), slide.slide_id
        if truth.any():
            hits += (found & truth).sum()
            found_px += found.sum()
            true_px += truth.sum()
            truths.append(truth[tissue])
            for sign, parts in values.items():
                parts.append(sign * hematoxylin(rgb, 5)[tissue])
    assert 2 * hits / (found_px + true_px) > 0.9
    for parts in values.values():
        baseline = best_threshold_dice(np.concatenate(parts), np.concatenate(truths))
        assert baseline < 0.6
