from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from digipath_ray.config.recipe import AugmentSpec
from digipath_ray.training.augment import (
    augment_patch,
    blur,
    scale_brightness,
    scale_contrast,
    scale_saturation,
    shift_stains,
    turn_hue,
)

OFF = AugmentSpec(
    flip=False,
    rotate=False,
    blur_px=0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
)
TURNS = replace(OFF, flip=True, rotate=True)


def rng(seed=0):
    return np.random.default_rng(seed)


def noisy(side=32, seed=1):
    return rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def stained(side=64):
    """Pinks and purples between 60 and 240, as of H&E."""
    low, high = np.array([120, 60, 120]), np.array([240, 200, 240])
    shade = rng(2).random((side, side, 1))
    return (low + shade * (high - low)).astype(np.uint8)


def augment(pixels, masks=None, *, spec, seed=0):
    if masks is None:
        masks = np.zeros(pixels.shape[:2], bool)
    return augment_patch(pixels, masks, spec=spec, rng=rng(seed))


def many(pixels, *, spec, times=300):
    """Different variations of one patch, as floats."""
    source, masks = rng(11), np.zeros(pixels.shape[:2], bool)
    for _ in range(times):
        yield augment_patch(pixels, masks, spec=spec, rng=source)[0].astype(float)


def test_all_off_is_the_patch_itself():
    pixels, mask = noisy(), noisy()[..., 0] > 99
    same, same_mask = augment(pixels, mask, spec=OFF)
    assert np.array_equal(same, pixels)
    assert np.array_equal(same_mask, mask)


@pytest.mark.parametrize("spec", [OFF, TURNS, AugmentSpec(stain=0.1)])
def test_the_answer_is_new_contiguous_and_writable(spec):
    pixels, mask = noisy(), noisy()[..., 0] > 99
    before, mask_before = pixels.copy(), mask.copy()
    pixels.flags.writeable = mask.flags.writeable = False  # as Ray hands them out
    for seed in range(8):
        for answer in augment(pixels, mask, spec=spec, seed=seed):
            assert answer.flags.c_contiguous
            assert answer.flags.writeable
            answer[:] = 0
    assert np.array_equal(pixels, before)
    assert np.array_equal(mask, mask_before)


def test_masks_move_with_the_image():
    mask = noisy()[..., 0] > 99
    ignored = noisy(seed=7)[..., 0] > 200
    pixels = noisy()
    pixels[..., 1] = 255 * mask
    pixels[..., 2] = 255 * ignored
    moved = 0
    for seed in range(32):
        varied, masks = augment(
            pixels, np.stack([mask, ignored]), spec=TURNS, seed=seed
        )
        assert np.array_equal(masks[0], varied[..., 1] == 255)
        assert np.array_equal(masks[1], varied[..., 2] == 255)
        moved += not np.array_equal(varied, pixels)
    assert moved > 20


def test_labels_stay_aligned_with_everything_on():
    """A black square on white stays dark whatever is done to its colors."""
    mask = np.zeros((64, 64), bool)
    mask[5:20, 30:60] = True
    pixels = np.where(mask, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    for seed in range(20):
        varied, turned = augment(pixels, mask, spec=AugmentSpec(stain=0.05), seed=seed)
        gray = varied.mean(axis=2)
        assert np.array_equal(gray < (gray.min() + gray.max()) / 2, turned)


def test_all_eight_ways_to_lie_are_equally_likely():
    corners = np.array([[0, 60], [120, 180]], np.uint8)
    pixels = corners[..., None].repeat(3, axis=2)
    source, masks = rng(3), np.zeros((2, 2), bool)
    found = Counter(
        augment_patch(pixels, masks, spec=TURNS, rng=source)[0][..., 0].tobytes()
        for _ in range(4000)
    )
    assert len(found) == 8
    assert chisquare(list(found.values())).pvalue > 0.01


def test_equal_states_of_chance_give_equal_bits():
    pixels, mask = stained(), noisy(64)[..., 0] > 99
    spec = AugmentSpec(stain=0.05)
    one, two, other = (augment(pixels, mask, spec=spec, seed=s) for s in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("name", "width"), [("brightness", 64 / 255), ("contrast", 0.75)]
)
def test_factors_fill_their_range(name, width):
    # Half at 80, half at 120: the mean is 100, and neither clips at 0 or 255.
    pixels = np.full((8, 8, 3), 80, np.uint8)
    pixels[4:] = 120
    spec = replace(OFF, **{name: width})
    seen = list(many(pixels, spec=spec))
    if name == "brightness":
        factors = [v.mean() / 100 for v in seen]
    else:
        factors = [(v[4:].mean() - v[:4].mean()) / 40 for v in seen]
    assert 1 - width - 0.03 <= min(factors) < 1 - 0.95 * width
    assert 1 + 0.95 * width < max(factors) <= 1 + width + 0.03
    assert np.mean(factors) == pytest.approx(1, abs=0.1 * width)


def test_saturation_fills_its_range_and_keeps_the_gray():
    pixels = np.full((4, 4, 3), (160, 100, 130), np.uint8)
    spec = replace(OFF, saturation=0.25)
    seen = list(many(pixels, spec=spec))
    factors = [np.ptp(v[0, 0]) / 60 for v in seen]
    assert 0.73 <= min(factors) < 0.77
    assert 1.23 < max(factors) <= 1.27
    luma = [v[0, 0] @ (0.299, 0.587, 0.114) for v in seen]
    assert np.ptp(luma) < 2


def test_hue_fills_its_range():
    pixels = np.full((4, 4, 3), (60, 200, 60), np.uint8)  # green, hue 1/3
    spec = replace(OFF, hue=0.04)
    turns = []
    for varied in many(pixels, spec=spec):
        red, green, blue = varied[0, 0]
        assert green == 200
        turns.append((blue - red) / 140 / 6)
    assert -0.043 <= min(turns) < -0.036
    assert 0.036 < max(turns) <= 0.043


def test_color_changes_by_hand():
    def changed(change, amount, colors):
        image = Image.fromarray(np.array([colors], np.uint8))
        return np.asarray(change(image, amount))[0].tolist()

    assert changed(scale_brightness, 0.5, [(100, 200, 50)]) == [[50, 100, 25]]
    # The mean gray of the two is 100.
    gray = [(60, 60, 60), (140, 140, 140)]
    assert changed(scale_contrast, 0.5, gray) == [[80, 80, 80], [120, 120, 120]]
    # Its gray is 0.299 * 200 + 0.587 * 100 + 0.114 * 100 = 130 (129.9).
    assert changed(scale_saturation, 0, [(200, 100, 100)]) == [[130, 130, 130]]
    # A third of a turn takes red to green, but for the step of 1/256.
    red, green, blue = changed(turn_hue, 1 / 3, [(200, 0, 0)])[0]
    assert green == 200
    assert max(red, blue) <= 5
    assert changed(turn_hue, 0.001, [(200, 3, 7)]) == [[200, 3, 7]]


def test_the_order_of_color_changes_varies():
    # Brighter by 1.25 and then clipped, or clipped first: the order shows.
    pixels = noisy()
    spec = replace(OFF, brightness=0.25, contrast=0.75)

    class Fixed(np.random.Generator):
        """All factors at their upper end; only the order is left to chance."""

        def uniform(self, low, high):
            return high

    seen = {
        augment_patch(
            pixels, np.zeros((32, 32), bool), spec=spec, rng=Fixed(np.random.PCG64(s))
        )[0].tobytes()
        for s in range(20)
    }
    assert len(seen) == 2


def test_gray_stays_gray_and_finite():
    pixels = np.full((16, 16, 3), 128, np.uint8)
    for seed in range(20):
        varied, _ = augment(pixels, spec=AugmentSpec(), seed=seed)
        assert np.ptp(varied.astype(int), axis=2).max() == 0
    for value in (0, 255):
        extreme = np.full((16, 16, 3), value, np.uint8)
        varied, _ = augment(extreme, spec=AugmentSpec(stain=1.0))
        assert np.ptp(varied.reshape(-1, 3), axis=0).max() == 0


def test_blur_spreads_a_point_and_keeps_the_brightness():
    pixels = np.full((9, 9, 3), 100, np.uint8)
    assert np.array_equal(blur(pixels, 0.5), pixels)
    pixels[4, 4, 0] = 200
    found = blur(pixels, 0.5)
    assert (found[..., 1:] == 100).all()  # colors do not run into each other
    found = found[..., 0].astype(int)
    # Weights of the Gaussian at 0 and 1 px: 1 and exp(-2), over 1 + 2 exp(-2) + ...
    side = np.exp(-2.0)
    total = 1 + 2 * side + 2 * np.exp(-8.0)
    assert found[4, 4] == round(100 + 100 / total**2)
    assert found[4, 5] == found[5, 4] == round(100 + 100 * side / total**2)
    assert found[0, 0] == 100


def test_blur_is_drawn_anew_and_leaves_masks_alone():
    pixels, mask = noisy(), noisy()[..., 0] > 99
    spec = replace(OFF, blur_px=0.5)
    seen = set()
    for seed in range(5):
        varied, same = augment(pixels, mask, spec=spec, seed=seed)
        assert np.array_equal(same, mask)
        seen.add(varied.tobytes())
    assert len(seen) > 2  # a deviation under 0.2 px changes nothing


def test_stains_by_hand():
    pixels = stained()
    once, nothing = np.ones(3), np.zeros(3)
    assert np.array_equal(shift_stains(pixels, once, nothing), pixels)
    # Twice all stains is twice the optical density: light fractions are squared.
    twice = shift_stains(pixels, 2 * once, nothing)
    assert np.abs(twice - 255 * (pixels / 255.0) ** 2).max() <= 0.51
    # Hematoxylin takes its vector (0.65, 0.70, 0.29) times 0.1 from white light.
    white = np.full((1, 1, 3), 255, np.uint8)
    found = shift_stains(white, once, np.array([0.1, 0, 0]))[0, 0]
    assert found.tolist() == [round(255 * 10**-d) for d in (0.065, 0.070, 0.029)]


def test_stain_jitter_is_moderate_and_off_by_default():
    pixels = stained()
    assert AugmentSpec().stain == 0
    seen = many(pixels, spec=replace(OFF, stain=0.05), times=50)
    shifts = [np.abs((v - pixels).mean(axis=(0, 1))).max() for v in seen]
    assert 5 < max(shifts) < 50


@pytest.mark.parametrize(
    ("pixels", "masks", "named"),
    [
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), bool), "pixels: float32"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), "pixels"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int16), "masks: int16"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), bool), "masks"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), bool), "square"),
    ],
)
def test_patches_that_do_not_fit(pixels, masks, named):
    with pytest.raises(ValueError, match=named):
        augment(pixels, masks, spec=TURNS)
