"""Corrections and hard examples: what they change of a fit, and what they leave."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import tomli_w
from PIL import Image

from digipath_ray.annotations import Window, read_annotation
from digipath_ray.annotations.corrected import (
    CorrectedAnnotation,
    find_correction,
    list_corrections,
    read_corrected,
    untouched_note,
)
from digipath_ray.cli.app import run_app
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import merge, read_toml, recipe_from_tree, to_tree
from digipath_ray.mining.examples import write_hard
from digipath_ray.run.failure import RunError
from digipath_ray.schema import SAMPLES
from digipath_ray.slide.info import SlideError
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.reader import PatchReader, open_annotated
from digipath_ray.training.sampled import (
    fitted_samples,
    own_samples,
    read_samples,
    sample_slide,
)
from digipath_ray.training.sampling import draw_validation
from tests.annotated import FIT, RADIUS, SIDE, write_annotated_slide, write_disc

FRAME = (60, 60, 180, 180)
"""It holds a part of the disc around (160, 160)."""
DRAWN, IGNORED = (70, 70, 100, 110), (110, 70, 130, 90)
"""What the correction says: tumor where none was, and what nobody knows."""
WHOLE = Window(0, 0, SIDE, SIDE, l0_per_px_x=1, l0_per_px_y=1)
CORRECTION = [("Region*", FRAME), ("Tumor", DRAWN), ("Ignore*", IGNORED)]


def feature(name: str, box: tuple[float, float, float, float]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shapely.box(*box))),
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def write_geojson(path: Path, drawn: Sequence[tuple[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    features = [feature(name, box) for name, box in drawn]
    tree = {"type": "FeatureCollection", "features": features, **more}
    path.write_text(json.dumps(tree))
    return path


def at(box: tuple[int, int, int, int]) -> Any:
    x0, y0, x1, y1 = box
    return np.s_[y0:y1, x0:x1]


def painted(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), np.bool_)
    for box in boxes:
        found[at(box)] = True
    return found


@pytest.fixture
def row(tmp_path: Path) -> SlideRow:
    path = write_annotated_slide(tmp_path / "s.tif", tumor=True)
    disc = write_disc(tmp_path / "disc.geojson")
    return SlideRow(slide_id="s", path=str(path), annotation=str(disc), label="macro")


def corrected_recipe(folder: Path, drawn: Sequence[Any] = CORRECTION) -> Recipe:
    write_geojson(folder / "regions" / "s.geojson", drawn)
    sampling = {"extra_annotations": str(folder / "regions")}
    return recipe_from_tree(merge(FIT, {"sampling": sampling}))


def truth_of(row: SlideRow, recipe: Recipe) -> np.ndarray:
    """Tumor and unknown of the whole slide, by every patch that the reader cuts."""
    side = recipe.sampling.fit_patch_px
    places = [(x, y) for y in range(0, SIDE, side) for x in range(0, SIDE, side)]
    samples = pa.Table.from_pylist(
        [
            {"slide_id": "s", "x": x, "y": y, "tumor": 0.0, "area_mm2": 1.0}
            for x, y in places
        ],
        schema=SAMPLES,
    )
    draws = draw_validation(samples, limit=len(places), batch_size=8, seed=0)
    reader = PatchReader({"s": row}, recipe)
    batch = reader.read(draws)
    reader.close()
    out = np.zeros((2, SIDE, SIDE), np.bool_)
    for i, (x, y) in enumerate(
        zip(draws["x"].to_pylist(), draws["y"].to_pylist(), strict=True)
    ):
        out[:, y : y + side, x : x + side] = (
            batch["tumor"][i],
            batch["weight"][i] == 0,
        )
    return out


def test_a_correction_is_the_truth_in_its_frame_and_nowhere_else(row, tmp_path):
    before, unknown_before = truth_of(row, recipe_from_tree(FIT))
    assert before.sum() == pytest.approx(np.pi * RADIUS**2, rel=0.01)
    assert not unknown_before.any()
    tumor, unknown = truth_of(row, corrected_recipe(tmp_path))
    inside = painted(FRAME)
    assert np.array_equal(tumor[~inside], before[~inside])
    assert before[inside].any()  # of which nothing is left
    assert np.array_equal(tumor & inside, painted(DRAWN))
    assert np.array_equal(unknown, painted(IGNORED))


def test_of_a_slide_without_annotation_only_the_frame_is_known(row, tmp_path):
    row = replace(row, annotation=None, label=None)
    tumor, unknown = truth_of(row, corrected_recipe(tmp_path))
    assert np.array_equal(tumor, painted(DRAWN))
    assert np.array_equal(unknown, ~painted(FRAME) | painted(IGNORED))


def test_a_negative_slide_stays_known_around_a_correction(row, tmp_path):
    row = replace(row, annotation=None, label="negative")
    drawn = [("Region*", FRAME), ("Ignore*", IGNORED)]
    tumor, unknown = truth_of(row, corrected_recipe(tmp_path, drawn))
    assert not tumor.any()
    assert np.array_equal(unknown, painted(IGNORED))


def test_a_mask_is_corrected_like_outlines(row, tmp_path):
    mask = painted((150, 150, 250, 200))
    Image.fromarray(mask).save(tmp_path / "mask.png")
    row = replace(row, annotation=str(tmp_path / "mask.png"))
    recipe = corrected_recipe(tmp_path)
    tumor, _ = truth_of(row, recipe)
    expected = np.where(painted(FRAME), painted(DRAWN), mask)
    assert np.array_equal(tumor, expected)
    annotated = open_annotated(row, recipe)
    annotated.slide.close()
    assert annotated.annotation is not None
    assert annotated.annotation.area_px == expected.sum()
    assert annotated.annotation.area_mm2(2.0, 1.0) == expected.sum() * 2 / 1e6


def read(path: Path, row: SlideRow, *, known: bool = False) -> CorrectedAnnotation:
    class Size:
        width = height = SIDE

    base = read_annotation(row.annotation, slide=Size()) if row.annotation else None
    return read_corrected(path, slide=Size(), base=base, known=known)


@pytest.mark.parametrize("scale", [1.0, 4.0, 7.3])
def test_no_tumor_is_missing_on_the_map(row, tmp_path, scale):
    path = write_geojson(tmp_path / "s.geojson", CORRECTION)
    found = read(path, row)
    fine = found.tumor(WHOLE)
    shown = found.tumor_map(scale, scale)
    y, x = np.nonzero(fine)
    assert shown[(y / scale).astype(int), (x / scale).astype(int)].all()
    # What the correction took away is not shown, but for the frame's last px.
    gone = int(120 / scale), int(120 / scale)
    assert not shown[gone]
    box = found.correction.geometry.area
    assert box == (100 - 70) * (110 - 70)
    assert found.area_px == pytest.approx(fine.sum(), rel=0.002)


def test_frames_may_be_many_and_outlines_reach_beyond_them(row, tmp_path):
    frames = [(0, 0, 50, 50), (40, 40, 90, 90), (300, 300, 400, 400)]
    drawn = [*(("Region*", f) for f in frames), ("Tumor", (30, 30, 130, 130))]
    path = write_geojson(tmp_path / "s.geojson", drawn)
    found = read(path, replace(row, annotation=None))
    inside = painted(*((x, y, min(r, SIDE), min(b, SIDE)) for x, y, r, b in frames))
    tumor = found.tumor(WHOLE)
    assert np.array_equal(tumor, painted((30, 30, 130, 130)) & inside)
    ignored = found.ignored(WHOLE)
    assert np.array_equal(ignored, ~inside)
    assert found.area_px == tumor.sum()


def test_a_file_without_a_frame_is_refused(row, tmp_path):
    path = write_geojson(tmp_path / "s.geojson", [("Tumor", DRAWN)])
    with pytest.raises(SlideError, match=r"s\.geojson: no frame of class Region\*"):
        read(path, row)


# --- which files count ---


def test_files_as_exported_say_nothing_until_somebody_saves_them(tmp_path, caplog):
    features = [feature("Region*", FRAME)]
    note = untouched_note(features)
    exported = write_geojson(tmp_path / "s.geojson", [("Region*", FRAME)], **note)
    assert find_correction(tmp_path, "s") is None
    with pytest.raises(ValueError, match="none of the 1 files was edited"):
        list_corrections(tmp_path, ["s"])
    # Changed, or saved by QuPath, which drops the note.
    edited = [("Region*", FRAME), ("Tumor", DRAWN)]
    assert write_geojson(tmp_path / "t.geojson", edited, **note)
    assert write_geojson(tmp_path / "u.geojson", [("Region*", FRAME)])
    found = list_corrections(tmp_path, ["s", "t", "u"])
    assert [p.name for p in found] == ["t.geojson", "u.geojson"]
    assert "skipped 1 files that were not edited" in caplog.text
    assert exported.exists()


def test_a_file_of_an_unknown_slide_is_refused(tmp_path):
    write_geojson(tmp_path / "s.geojson", CORRECTION)
    write_geojson(tmp_path / "other.geojson", CORRECTION)
    with pytest.raises(ValueError, match=r"other.geojson: slide not in the cohort"):
        list_corrections(tmp_path, ["s"])
    with pytest.raises(ValueError, match="folder not found"):
        list_corrections(tmp_path / "nowhere", ["s"])


# --- sampling ---


def centers(table: pa.Table, side: int = 64) -> np.ndarray:
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    return np.stack([x + side // 2, y + side // 2], axis=1)


def sampled(row: SlideRow, recipe: Recipe, folder: Path) -> FitDirectory:
    directory = FitDirectory(folder)
    sample_slide(row, recipe, directory)
    return directory


def test_corrected_frames_are_seen_and_never_validated_on(row, tmp_path):
    plain = sampled(row, recipe_from_tree(FIT), tmp_path / "plain")
    assert len(pq.read_table(plain.added("s"))) == 0
    directory = sampled(row, corrected_recipe(tmp_path), tmp_path / "fit")
    own, added = own_samples(directory, ["s"]), pq.read_table(directory.added("s"))
    assert own.equals(pq.read_table(directory.samples("s")))
    assert fitted_samples(directory, ["s"]).equals(pa.concat_tables([own, added]))
    x0, y0, x1, y1 = FRAME
    inside = (centers(added) >= (x0, y0)) & (centers(added) < (x1, y1))
    assert inside.all()
    kinds = added["tumor"].to_numpy() > 0
    assert 0 < kinds.sum() <= 32
    assert 0 < (~kinds).sum() <= 32


def test_of_a_slide_only_corrected_all_patches_are_added(row, tmp_path):
    row = replace(row, annotation=None, label=None)
    directory = sampled(row, corrected_recipe(tmp_path), tmp_path / "fit")
    assert len(own_samples(directory, ["s"])) == 0
    assert len(fitted_samples(directory, ["s"])) > 0
    with pytest.raises(SlideError, match="its truth is unknown"):
        sampled(row, recipe_from_tree(FIT), tmp_path / "plain")


def test_where_tumor_may_be_unmarked_normal_patches_lie_wholly_in_a_frame(
    row, tmp_path
):
    row = replace(row, exhaustive=False)
    frame = (40, 40, 170, 170)
    recipe = corrected_recipe(tmp_path, [("Region*", frame)])
    added = pq.read_table(sampled(row, recipe, tmp_path / "fit").added("s"))
    reach = 32 + 16  # half a patch, and the jitter
    assert len(added) > 0
    assert (centers(added) >= 40 + reach).all()
    assert (centers(added) < 170 - reach).all()


def test_tumor_drawn_on_a_negative_slide_is_refused(row, tmp_path):
    row = replace(row, annotation=None, label="negative")
    with pytest.raises(SlideError, match="contain tumor, but the label is negative"):
        sampled(row, corrected_recipe(tmp_path), tmp_path / "fit")


# --- hard examples ---


def hard_table(places: Sequence[tuple[str, int, int, float]]) -> pa.Table:
    rows = [
        {"slide_id": s, "x": x, "y": y, "tumor": t, "area_mm2": 0.001}
        for s, x, y, t in places
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def hard_recipe(path: Path, changes: dict[str, Any] | None = None) -> Recipe:
    sampling = {"hard_examples": str(path), **(changes or {})}
    return recipe_from_tree(merge(FIT, {"sampling": sampling}))


@pytest.fixture
def hard(tmp_path: Path) -> Path:
    path = tmp_path / "hard.parquet"
    # One in the middle of the disc, one beside it with a share that is not so.
    table = hard_table([("s", 128, 128, 0.5), ("s", 40, 40, 0.25)])
    write_hard(path, table, fit_patch_px=64, mpp=1.0)
    return path


def test_hard_examples_are_fitted_on_with_their_slide_and_no_other(row, hard, tmp_path):
    recipe, folder = hard_recipe(hard), tmp_path / "fit"
    other = replace(row, slide_id="t")
    directory = sampled(row, recipe, folder)
    sampled(other, recipe, folder)
    added = pq.read_table(directory.added("s"))
    assert centers(added).tolist() == [[160, 160], [72, 72]]
    assert added["tumor"].to_pylist() == [1.0, 0.0]  # measured anew
    fitted = fitted_samples(directory, ["s", "t"])
    assert len(fitted) == len(own_samples(directory, ["s", "t"])) + 2
    assert len(pq.read_table(directory.added("t"))) == 0
    # A member that is validated on s sees nothing of them.
    plain = sampled(row, recipe_from_tree(FIT), tmp_path / "plain")
    assert own_samples(directory, ["s"]).equals(own_samples(plain, ["s"]))


def test_normal_hard_examples_need_an_exhaustive_annotation(row, hard, tmp_path):
    row = replace(row, exhaustive=False)
    directory = sampled(row, hard_recipe(hard), tmp_path / "fit")
    assert pq.read_table(directory.added("s"))["tumor"].to_pylist() == [1.0]


def test_other_examples_draw_anew_and_a_begun_fit_refuses_them(row, hard, tmp_path):
    recipe = hard_recipe(hard)
    directory = sampled(row, recipe, tmp_path / "fit")
    directory.accept(recipe, [row], overwrite=False)
    directory.accept(recipe, [row], overwrite=False)
    assert read_samples(row, recipe, directory) is not None
    table = hard_table([("s", 100, 100, 0.5)])
    write_hard(hard, table, fit_patch_px=64, mpp=1.0)
    assert read_samples(row, recipe, directory) is None
    with pytest.raises(RunError, match="hard examples"):
        directory.accept(recipe, [row], overwrite=False)
    with pytest.raises(RunError, match="sampling"):
        directory.accept(recipe_from_tree(FIT), [row], overwrite=False)


def test_other_corrections_draw_anew_and_a_begun_fit_refuses_them(row, tmp_path):
    recipe = corrected_recipe(tmp_path)
    directory = sampled(row, recipe, tmp_path / "fit")
    directory.accept(recipe, [row], overwrite=False)
    corrected_recipe(tmp_path, CORRECTION[:2])
    assert read_samples(row, recipe, directory) is None
    with pytest.raises(RunError, match="extra annotations"):
        directory.accept(recipe, [row], overwrite=False)


def test_hard_examples_of_another_size_or_slide_are_refused(row, hard, tmp_path):
    directory = FitDirectory(tmp_path / "fit")
    recipe = hard_recipe(hard, {"fit_patch_px": 96})
    with pytest.raises(ValueError, match="mined with fit_patch_px = 64, but the fit"):
        directory.accept(recipe, [row], overwrite=False)
    with pytest.raises(ValueError, match=r"not in the cohort, e\.g\. 's'"):
        directory.accept(
            hard_recipe(hard), [replace(row, slide_id="t")], overwrite=False
        )
    pq.write_table(pa.table({"slide_id": ["s"]}), hard)
    with pytest.raises(ValueError, match="not a file of digipath mine --out"):
        directory.accept(hard_recipe(hard), [row], overwrite=False)
    with pytest.raises(ValueError, match="file not found"):
        directory.accept(hard_recipe(tmp_path / "no"), [row], overwrite=False)


# --- the command ---


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--hard-examples", "1 of the slides are not in the cohort, e.g. 's'"),
        ("--extra-annotations", "s.geojson: slide not in the cohort"),
    ],
)
def test_the_command_refuses_what_is_not_of_the_cohort(
    row, hard, tmp_path, capsys, option, message
):
    corrected_recipe(tmp_path)
    given = {"--hard-examples": hard, "--extra-annotations": tmp_path / "regions"}
    cohort = tmp_path / "cohort.csv"
    others = (f"{name},{row.path},{row.annotation}" for name in "tu")
    cohort.write_text("\n".join(["slide_id,path,annotation", *others]))
    config = tmp_path / "fit.toml"
    config.write_text(tomli_w.dumps(FIT))
    told = ["--config", str(config), "--out", str(tmp_path / "fit")]
    assert run_app(["train", str(cohort), *told, option, str(given[option])]) == 2
    assert message in capsys.readouterr().err


def test_a_toml_file_names_them_beside_itself(tmp_path):
    config = tmp_path / "fit.toml"
    sampling = {"hard_examples": "hard.parquet", "extra_annotations": "/r/regions"}
    config.write_text(tomli_w.dumps({"sampling": sampling}))
    recipe = recipe_from_tree(read_toml(config))
    assert recipe.sampling.hard_examples == str(tmp_path / "hard.parquet")
    assert recipe.sampling.extra_annotations == "/r/regions"
    assert to_tree(recipe)["sampling"]["extra_annotations"] == "/r/regions"
