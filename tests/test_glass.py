"""Pale tissue beside vivid color, on every glass: found, and glass is not."""

from pathlib import Path

import numpy as np
import pytest

from digipath_ray.config.run import TissueSpec
from digipath_ray.tissue.find import Tissue, find_tissue
from digipath_ray.tissue.glass import find_glass
from tests.tissue_scenes import (
    GLASS,
    PALE,
    SHARES,
    SIDE,
    VIVID,
    Scene,
    agreement,
    draw,
    real_scenes,
    scenes,
)

METHODS = ("otsu", "camelyon")
SCENES = {scene.name: scene for scene in scenes()}


def find(rgb: np.ndarray, method: str = "otsu", **spec: object) -> Tissue:
    return find_tissue(
        rgb, mpp_x=8.0, mpp_y=8.0, spec=TissueSpec(tissue=method, **spec)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCENES)
def test_tissue_is_found_and_glass_is_not(name: str, method: str) -> None:
    scene = SCENES[name]
    tissue, glass = agreement(find(scene.rgb, method).mask.array, scene)
    assert tissue >= 0.98
    assert glass <= 0.02


@pytest.mark.parametrize("method", METHODS)
def test_real_tissue_is_found_and_glass_is_not(method: str, shared_data: Path) -> None:
    for scene in real_scenes(shared_data / "glas"):
        tissue, glass = agreement(find(scene.rgb, method).mask.array, scene)
        assert tissue >= 0.98, scene.name
        assert glass <= 0.02, scene.name


@pytest.mark.parametrize("method", [*METHODS, "paip"])
def test_glass_of_any_color_has_no_tissue(method: str) -> None:
    for color in GLASS.values():
        rgb, _ = draw(glass=color, radius=0, vignette=0.1)
        assert find(rgb, method).quality.flags == ("no tissue",)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pale", PALE)
@pytest.mark.parametrize("vivid", VIVID)
def test_vivid_color_that_grows_takes_no_tissue_away(
    pale: str, vivid: str, method: str
) -> None:
    grown = [SCENES[f"{pale} with {vivid} on {share:.0%}"] for share in SHARES]
    found = [find(s.rgb, method).mask.array.sum() / s.tissue.sum() for s in grown]
    assert np.ptp(found) < 0.03  # a rim of one pixel is 0.02


def test_the_papers_rule_loses_pale_tissue_and_that_is_flagged() -> None:
    rgb, truth = draw(share=0.08)
    lost = find(rgb, "paper")
    assert lost.mask.array.sum() < 0.2 * truth.sum()
    assert "color outside the tissue" in lost.quality.flags
    assert "color outside the tissue" not in find(rgb).quality.flags


def test_tissue_too_pale_to_tell_from_glass_is_flagged() -> None:
    faint = (238, 231, 236)
    rgb, truth = draw(pale=faint, noise=1.0, quality=95)
    found = find(rgb)
    assert found.mask.array.sum() < 0.1 * truth.sum()
    assert "color outside the tissue" in found.quality.flags
    found = find(rgb, min_saturation=0.015).mask.array
    tissue, glass = agreement(found, Scene(name="pale", rgb=rgb, tissue=truth))
    assert tissue > 0.98
    assert glass < 0.02


@pytest.mark.parametrize("color", GLASS.values())
def test_glass_has_its_color_and_is_white_in_its_own_light(color) -> None:
    rgb, tissue = draw(glass=color, noise=0.0, quality=95)
    glass = find_glass(rgb, ignore=np.zeros((SIDE, SIDE), np.bool_))
    assert glass is not None
    assert glass.color == pytest.approx(color, abs=2)
    white = glass.balance(rgb)[~tissue]
    assert np.median(white) >= 253


def test_a_crop_of_tissue_has_no_glass() -> None:
    rgb, _ = draw(pale=(190, 110, 160), radius=1.0)
    assert find_glass(rgb, ignore=np.zeros((SIDE, SIDE), np.bool_)) is None
    nothing = np.zeros((4, 4, 3), np.uint8)
    assert find_glass(nothing, ignore=np.zeros((4, 4), np.bool_)) is None
