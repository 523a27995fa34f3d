"""Random augmentation of patches and their masks during training.

Flips, rotations, blur, color jitter and, optionally, stain jitter. Color jitter equals
torchvision's on PIL images, as in the released code; it is implemented with Pillow
because the tasks that read patches run without torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter
from skimage.color import hed_from_rgb, rgb_from_hed

from digipath_ray.config.recipe import AugmentSpec

Pixels = NDArray[np.uint8]
Masks = NDArray[Any]
"""Bool or uint8."""

DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
"""Optical density of each 8-bit value; black counts as 1/255."""


def augment_patch(
    pixels: Pixels, masks: Masks, *, spec: AugmentSpec, rng: np.random.Generator
) -> tuple[Pixels, Masks]:
    """Augment a patch; equal states of ``rng`` give bit-identical results.

    As :func:`augment_views` of the patch alone.
    """
    views, masks = augment_views({1: pixels}, masks, spec=spec, rng=rng)
    return views[1], masks


def augment_views(
    views: Mapping[int, Pixels],
    masks: Masks,
    *,
    spec: AugmentSpec,
    rng: np.random.Generator,
) -> tuple[dict[int, Pixels], Masks]:
    """Augment a patch and its contexts alike.

    All are turned and flipped together, blurred by the same um, and colored as one
    picture. Returns new, contiguous arrays; the inputs are unchanged.

    Args:
        views: how many times coarser -> RGB [height, width, 3], all of one shape; the
            patch itself is 1.
        masks: [..., height, width], bool or uint8, one or several masks; only flipped
            and rotated, together with the image.
        spec: augmentations; with all off, the patch is returned unchanged.
        rng: random generator.

    Raises:
        ValueError: shapes or dtypes do not match, or a patch to rotate is not square.
    """
    for pixels in views.values():
        _check_patch(pixels, masks, spec)
    turned, masks = _turn(list(views.values()), masks, spec, rng)
    if spec.blur_px:
        sigma = rng.uniform(0, spec.blur_px)
        turned = [
            blur(pixels, sigma / factor)
            for factor, pixels in zip(views, turned, strict=True)
        ]
    # Side by side: contrast is about the mean of the picture.
    pixels = turned[0] if len(turned) == 1 else np.concatenate(turned, axis=1)
    pixels = _jitter_color(pixels, spec, rng)
    if spec.stain:
        scale = rng.uniform(1 - spec.stain, 1 + spec.stain, 3)
        pixels = shift_stains(pixels, scale, rng.uniform(-spec.stain, spec.stain, 3))
    parts = np.split(pixels, len(turned), axis=1)
    # Copy even an unchanged patch: arrays from Ray are read-only.
    colored = (np.array(part, order="C") for part in parts)
    return dict(zip(views, colored, strict=True)), np.array(masks, order="C")


def _check_patch(pixels: Pixels, masks: Masks, spec: AugmentSpec) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels: {pixels.dtype} {pixels.shape}, not uint8 [h, w, 3]")
    if masks.dtype not in (np.bool_, np.uint8) or masks.shape[-2:] != pixels.shape[:2]:
        raise ValueError(
            f"masks: {masks.dtype} {masks.shape}, not bool or uint8 [..., h, w] of "
            "pixels "
            f"{pixels.shape}"
        )
    if spec.rotate and pixels.shape[0] != pixels.shape[1]:
        raise ValueError(f"pixels {pixels.shape}: only a square patch can be rotated")


def _turn(
    views: list[Pixels], masks: Masks, spec: AugmentSpec, rng: np.random.Generator
) -> tuple[list[Pixels], Masks]:
    """Flip each axis with probability 1/2, rotate by a random multiple of 90 degrees.

    All 8 orientations are equally likely.
    """
    if spec.flip:
        for axis in (0, 1):
            if rng.random() < 0.5:
                # Masks have their rows and columns last, pixels first.
                views = [np.flip(pixels, axis) for pixels in views]
                masks = np.flip(masks, axis - 2)
    if spec.rotate:
        turns = int(rng.integers(4))
        views = [np.rot90(pixels, turns) for pixels in views]
        masks = np.rot90(masks, turns, axes=(-2, -1))
    return views, masks


def blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Gaussian blur of ``sigma_px``."""
    # In float32: on integers scipy truncates once per axis, which darkens the image.
    smooth = gaussian_filter(pixels.astype(np.float32), sigma_px, axes=(0, 1))
    return (smooth + np.float32(0.5)).astype(np.uint8)


def _jitter_color(
    pixels: Pixels, spec: AugmentSpec, rng: np.random.Generator
) -> Pixels:
    """Jitter brightness, contrast, saturation and hue, in random order."""
    jitters: tuple[
        tuple[float, float, Callable[[Image.Image, float], Image.Image]], ...
    ]
    jitters = (
        (spec.brightness, 1, scale_brightness),
        (spec.contrast, 1, scale_contrast),
        (spec.saturation, 1, scale_saturation),
        (spec.hue, 0, turn_hue),
    )
    wanted = [jitter for jitter in jitters if jitter[0] > 0]
    if not wanted:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    # Every step clips to 0 and 255, so the order matters; torchvision draws it too.
    for i in rng.permutation(len(wanted)):
        width, middle, change = wanted[i]
        image = change(image, rng.uniform(middle - width, middle + width))
    return np.asarray(image)


def scale_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Multiply every value by ``factor``: 0 gives black, 1 the image."""
    return ImageEnhance.Brightness(image).enhance(factor)


def scale_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Scale the distance from the mean gray: 0 gives uniform gray, 1 the image."""
    return ImageEnhance.Contrast(image).enhance(factor)


def scale_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Scale the distance from each pixel's gray: 0 gives grayscale, 1 the image."""
    return ImageEnhance.Color(image).enhance(factor)


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Rotate the hue by ``turn`` of a full turn, rounded to 1/256."""
    shift = round(turn * 256)
    if shift == 0:
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(i + shift) % 256 for i in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def shift_stains(
    pixels: Pixels, scale: NDArray[np.float64], shift: NDArray[np.float64]
) -> Pixels:
    """Scale and shift the amounts of hematoxylin, eosin and residual (DAB).

    The amounts, in optical density, become ``scale * amount + shift`` (Tellez et al.
    2018, doi 10.1109/TMI.2018.2820199), unmixed by the vectors of Ruifrok and Johnston.
    Not scikit-image's rgb2hed, because it clips negative amounts to 0, which changes
    colors even with scale 1 and shift 0.

    Args:
        pixels: RGB [height, width, 3].
        scale: [3].
        shift: [3], optical density (of base 10).
    """
    # Unmix, scale and mix again in one matrix: the density image is touched once.
    mix = (hed_from_rgb @ np.diag(scale) @ rgb_from_hed).astype(np.float32)
    density = DENSITY[pixels].reshape(-1, 3) @ np.ascontiguousarray(mix)
    # The shift is the same for all pixels, so it is a factor on the light.
    light = 255 * 10 ** -(shift @ rgb_from_hed).astype(np.float32)
    values = np.exp(density * np.float32(-np.log(10))) * light + np.float32(0.5)
    return np.minimum(values, 255).astype(np.uint8).reshape(pixels.shape)
