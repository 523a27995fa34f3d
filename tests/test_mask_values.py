"""Masks that say what is tumor, and those that have to be asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from digipath_ray.annotations import Window, read_annotation
from digipath_ray.cli import run_app
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.camelyon16 import with_organizers_values
from digipath_ray.evaluate.masks import evaluate_masks
from digipath_ray.slide.info import SlideError
from digipath_ray.tissue.mask import read_mask_image
from tests.drawings import SLIDE

TUMOR = np.zeros((80, 100), bool)
TUMOR[10:30, 20:60] = True  # 800 of 8000 px
PX = int(TUMOR.sum())
LABELS = np.add(TUMOR, np.pad(TUMOR[:70], ((10, 0), (0, 0))), dtype=int)
"""1 on 800 px, 2 on 400."""
SOFT = np.hypot(*np.meshgrid(np.arange(100) - 50, np.arange(80) - 40))
SOFT = (255 * np.exp(-((SOFT / 20) ** 2))).astype(np.uint8)


def save(path: Path, array: Any) -> Path:
    Image.fromarray(np.asarray(array)).save(path)
    return path


def indexed(path: Path, array: Any, *colors: tuple[int, int, int]) -> Path:
    image = Image.fromarray(np.asarray(array, np.uint8)).convert("P")
    image.putdata(np.asarray(array, np.uint8).ravel().tolist())
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)
    return path


def area(path: Path, **told: Any) -> float:
    return read_annotation(path, slide=SLIDE, **told).area_px


def refusal(path: Path, **told: Any) -> str:
    with pytest.raises(SlideError) as e:
        read_annotation(path, slide=SLIDE, **told)
    return f"{e.value} | {e.value.hint}"


# --- what passes


@pytest.mark.parametrize("value", [1, 7, 255])
def test_one_value_beside_0(tmp_path: Path, value: int) -> None:
    assert area(save(tmp_path / "m.png", TUMOR * np.uint8(value))) == PX
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, TUMOR * np.float32(value), tile=(16, 32))
    assert area(path) == PX


def test_an_empty_mask(tmp_path: Path) -> None:
    found = read_annotation(save(tmp_path / "m.png", TUMOR & False), slide=SLIDE)
    assert (found.area_px, found.account.concerns) == (0, [])


def test_a_bool_as_tifffile_and_pillow_write_it(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, TUMOR)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
    assert area(path) == PX
    assert (read_mask_image(path) == TUMOR).all()
    Image.fromarray(TUMOR).save(path, compression="group4")
    assert area(path) == PX
    assert (read_mask_image(path) == TUMOR).all()


def test_an_indexed_image_is_read_by_index(tmp_path: Path) -> None:
    path = indexed(tmp_path / "m.png", TUMOR, (255, 255, 255), (200, 0, 0))
    assert area(path) == PX


def test_one_color_on_black(tmp_path: Path) -> None:
    assert (
        area(save(tmp_path / "m.png", TUMOR[..., None] * np.uint8([200, 0, 9]))) == PX
    )


def test_jpeg_masks_are_above_127_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "m.jpg"
    Image.fromarray(TUMOR * np.uint8(255)).save(path, quality=30)
    assert area(path) == pytest.approx(PX, rel=0.02)
    assert read_mask_image(path).sum() == pytest.approx(PX, rel=0.02)


def test_tiles_that_are_alike_are_counted_as_often_as_they_occur(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, LABELS.astype(np.uint8), tile=(16, 16), compression="zlib")
    # The lower and the right tiles are cut by the edge.
    assert "0 (85 %), 1 (10 %), 2 (5 %)" in refusal(path)


# --- what is asked for


def test_several_values(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", LABELS.astype(np.uint8))
    assert "several values" in refusal(path)
    assert "0 (85 %), 1 (10 %), 2 (5 %)" in refusal(path)
    assert "--mask-values tumor=" in refusal(path)
    assert area(path, values={2: "tumor"}) == 400
    assert area(path, values={1: "tumor", 2: "tumor"}) == 1200
    assert area(path, above=0) == 1200


def test_255_is_void(tmp_path: Path) -> None:
    pixels = np.where(LABELS == 2, 255, LABELS).astype(np.uint8)
    path = save(tmp_path / "m.png", pixels)
    assert "--mask-values tumor=1,ignore=255" in refusal(path)
    found = read_annotation(path, slide=SLIDE, values={1: "tumor", 255: "ignored"})
    window = Window(0, 0, 100, 80, l0_per_px_x=1, l0_per_px_y=1)
    assert (found.tumor(window) == (pixels == 1)).all()
    assert (found.ignored(window) == (pixels == 255)).all()


def test_a_label_image_of_qupath(tmp_path: Path) -> None:
    colors = (255, 255, 255), (200, 0, 0), (150, 200, 150)
    path = indexed(tmp_path / "m.png", LABELS, *colors)
    assert "several values" in refusal(path)
    assert area(path, values={1: "tumor"}) == 800
    tiles = tmp_path / "m.tif"
    table = np.zeros((3, 256), np.uint16)
    table[:, :3] = np.array(colors).T * 257
    tifffile.imwrite(tiles, LABELS.astype(np.uint8), photometric="palette",
                     colormap=table, tile=(16, 16))  # fmt: skip
    assert "several values" in refusal(tiles)
    assert area(tiles, values={1: "tumor"}) == 800


def test_a_palette_whose_background_is_not_the_first(tmp_path: Path) -> None:
    path = indexed(tmp_path / "m.png", ~TUMOR, (200, 0, 0), (0, 0, 0))
    assert "a palette whose index 0 is not the background" in refusal(path)


def test_gray(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", SOFT)
    assert "gray" in refusal(path)
    assert "--mask-above 127" in refusal(path)
    assert area(path, above=127) == (SOFT > 127).sum()
    floats = tmp_path / "m.tif"
    tifffile.imwrite(floats, SOFT / np.float32(255), tile=(16, 16))
    assert "--mask-above 0.5" in refusal(floats)
    assert area(floats, above=0.5) == (SOFT / np.float32(255) > 0.5).sum()


def test_a_mask_with_soft_edges(tmp_path: Path) -> None:
    image = Image.fromarray(TUMOR * np.uint8(255)).resize(
        (50, 40), Image.Resampling.BOX
    )
    image.resize((100, 80), Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    assert "several values" in refusal(tmp_path / "m.png")


def test_a_white_background(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", ~TUMOR * np.uint8(255))
    assert "tumor on 90 % of it and 100 % of its border" in refusal(path)
    assert area(path, values={255: "tumor"}) == 7200
    assert area(path, values={0: "tumor"}) == PX


def test_a_white_background_in_a_jpeg_and_a_bool(tmp_path: Path) -> None:
    path = save(tmp_path / "m.jpg", ~TUMOR * np.uint8(255))
    assert "say so: --mask-above 127" in refusal(path)
    assert area(path, above=127) == pytest.approx(7200, rel=0.02)
    path = save(tmp_path / "m.png", ~TUMOR)
    assert "say so: --mask-above 0" in refusal(path)
    assert area(path, above=0) == 7200


def test_white_all_over(tmp_path: Path) -> None:
    assert "white all over" in refusal(
        save(tmp_path / "m.png", np.full((80, 100), 255, np.uint8))
    )


def test_an_overlay(tmp_path: Path) -> None:
    colors = np.where(TUMOR[..., None], [255, 0, 0, 255], [255, 255, 255, 0])
    path = save(tmp_path / "m.png", colors.astype(np.uint8))
    assert "transparency that differs" in refusal(path)
    path = save(tmp_path / "m.png", colors[..., :3].astype(np.uint8))
    assert "several colors" in refusal(path)
    assert "#ff0000 (10 %)" in refusal(path, above=127)


def test_what_is_not_a_number(tmp_path: Path) -> None:
    pixels = TUMOR.astype(np.float32)
    pixels[0, :80] = np.nan
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, pixels)
    assert "NaN (1 %)" in refusal(path)
    assert "ignore=nan" in refusal(path)
    window = Window(0, 0, 100, 80, l0_per_px_x=1, l0_per_px_y=1)
    for told in ({"above": 0.5}, {"values": {1.0: "tumor", float("nan"): "ignored"}}):
        found = read_annotation(path, slide=SLIDE, **told)
        assert (found.tumor(window) == TUMOR).all()
        assert (found.ignored(window) == np.isnan(pixels)).all()


def test_options_that_do_not_fit_a_plain_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", TUMOR * np.uint8(255))
    assert "tumor=255, or other=255" in refusal(path, values={2: "tumor"})
    ones = save(tmp_path / "n.png", TUMOR * np.uint8(1))
    assert area(ones, values={2: "tumor"}) == 0  # 1 is another class beside 2
    assert "not above 127" in refusal(ones, above=127)


@pytest.mark.parametrize(
    "given",
    [
        {"mask_values": ("tumor",)},
        {"mask_values": ("tumour=2",)},
        {"mask_values": ("tumor=two",)},
        {"mask_values": ("tumor=2",), "mask_above": 3.0},
    ],
)
def test_settings_that_say_nothing(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"annotations\.mask_"):
        AnnotationSpec(**given)


# --- scores


def folders(tmp_path: Path, truth: Any, found: Any) -> tuple[Path, Path]:
    for name, pixels in (("truth", truth), ("found", found)):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "s.png", pixels)
    return tmp_path / "truth", tmp_path / "found"


def test_predictions_are_asked_as_references(tmp_path: Path) -> None:
    truth, found = folders(tmp_path, (SOFT > 127) * np.uint8(255), SOFT)
    with pytest.raises(SlideError, match="gray"):
        evaluate_masks(truth, found, resamples=10)
    spec = AnnotationSpec(mask_above=127)
    scores = evaluate_masks(truth, found, annotations=spec, resamples=10)
    assert scores.scores["dice"].value == 1


def test_a_plain_prediction_beside_a_reference_of_classes(tmp_path: Path) -> None:
    truth, found = folders(tmp_path, LABELS.astype(np.uint8), TUMOR)
    save(found / "s.png", ((LABELS == 2) * 255).astype(np.uint8))
    spec = AnnotationSpec(mask_values=("tumor=2",))
    scores = evaluate_masks(truth, found, annotations=spec, resamples=10)
    assert scores.scores["dice"].value == 1
    # 1 may be tumor, or the tissue of the reference.
    save(found / "s.png", (LABELS == 2).astype(np.uint8))
    with pytest.raises(SlideError, match="none of the values named") as e:
        evaluate_masks(truth, found, annotations=spec, resamples=10)
    assert "other=1 if that is no tumor" in e.value.hint


def test_the_command_takes_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = folders(tmp_path, LABELS.astype(np.uint8), LABELS.astype(np.uint8))
    line = ["evaluate", "masks", "--reference", str(truth), "--prediction", str(found)]
    assert run_app(line) == 2
    assert "--mask-values tumor=" in capsys.readouterr().err
    assert run_app([*line, "--mask-values", "tumor=2,other=1", "--resamples", "9"]) == 0
    assert "1.000" in capsys.readouterr().out


def test_camelyon16_knows_the_masks_of_its_organizers(tmp_path: Path) -> None:
    tumor = save(tmp_path / "a.png", LABELS.astype(np.uint8))
    normal = save(tmp_path / "b.png", TUMOR.astype(np.uint8))
    rows = [
        SlideRow(slide_id=p.stem, path="", annotation=str(p)) for p in (tumor, normal)
    ]
    spec, notes = with_organizers_values(rows, AnnotationSpec())
    assert spec.mask_values == ("tumor=2",)
    assert notes == ["the masks are the organizers': 1 is tissue, 2 is tumor"]
    assert area(normal, values=spec.mask_meanings) == 0
    spec, notes = with_organizers_values(rows[1:], AnnotationSpec())
    assert spec.mask_values == ()
    assert "1 is taken for tumor" in notes[0]
    told = AnnotationSpec(mask_above=0)
    assert with_organizers_values(rows, told) == (told, [])
