"""A fit's files are told by their content: moved, corrected, mended, replaced."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from PIL import Image

from digipath_ray.cli import run_app
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.difference import difference
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import Tree, merge, read_toml, to_tree
from digipath_ray.distributed.fit_feed import patch_reader
from digipath_ray.mining.examples import write_hard
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.schema import FAILURES, SAMPLES
from digipath_ray.storage.files import read_table
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.reader import PatchReader
from digipath_ray.training.sampled import read_samples, sample_slide
from digipath_ray.training.sampling import draw_validation
from digipath_ray.training.start import start_network
from tests.annotated import FIT, SIDE, write_annotated_cohort, write_annotated_slide
from tests.members import TINY, write_tiny


def recipe_of(changes: Tree | None = None, *, init: str | None = None) -> Recipe:
    return resolve_recipe(merge(FIT, changes or {}), init=init)


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, FitDirectory]:
    """A cohort of two patients and a fit that was begun: patches are drawn."""
    cohort, fit = tmp_path / "cohort", FitDirectory(tmp_path / "fit")
    rows = write_annotated_cohort(cohort, patients=2)
    fit.create()
    assert fit.accept(recipe_of(), rows, overwrite=False) == []
    for row in rows:
        sample_slide(row, recipe_of(), fit)
    return cohort, fit


def rows_of(cohort: Path) -> list[SlideRow]:
    return read_cohort([cohort / "cohort.csv"])


def correct(cohort: Path, *, column: float = 5.0) -> None:
    """Draw the disc anew, a little to the right; no column of the cohort changes."""
    path = cohort / "disc.geojson"
    tree = json.loads(path.read_text())
    ring = np.array(tree["features"][0]["geometry"]["coordinates"])
    ring[..., 0] += column
    tree["features"][0]["geometry"]["coordinates"] = ring.tolist()
    path.write_text(json.dumps(tree))


def test_a_corrected_annotation_is_refused_by_its_name(
    begun: tuple[Path, FitDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, fit = begun
    config = cohort.parent / "fit.toml"
    config.write_text(tomli_w.dumps(FIT))
    correct(cohort)
    given = [str(cohort / "cohort.csv"), "--config", str(config)]
    assert run_app(["train", *given, "--out", str(fit.root)]) == 2
    told = capsys.readouterr().err
    assert "slide p0_tumor: other content of annotation" in told
    assert "disc.geojson" in told
    assert "p0_negative" not in told
    assert "--overwrite to start over" in told
    rows = rows_of(cohort)
    assert read_samples(rows[0], recipe_of(), fit) is None
    assert fit.accept(recipe_of(), rows, overwrite=True) == []
    assert fit.accept(recipe_of(), rows, overwrite=False) == []


@pytest.mark.parametrize("part", ["tissue mask", "slide", "mask as annotation"])
def test_other_pixels_are_refused(tmp_path: Path, part: str) -> None:
    slide = write_annotated_slide(tmp_path / "s.tif", tumor=True)
    drawn, tissue = tmp_path / "drawn.png", tmp_path / "tissue.png"
    white = np.full((SIDE // 4, SIDE // 4), 255, np.uint8)
    half = white.copy()
    half[:, : SIDE // 8] = 0
    Image.fromarray(half).save(drawn)
    Image.fromarray(white).save(tissue)
    row = SlideRow(
        slide_id="s", path=str(slide), annotation=str(drawn), mask=str(tissue)
    )
    fit = FitDirectory(tmp_path / "fit")
    fit.accept(recipe_of(), [row], overwrite=False)
    fit.accept(recipe_of(), [row], overwrite=False)
    if part == "slide":
        write_annotated_slide(slide, tumor=True, seed=4)
    else:
        half[0] = 255
        Image.fromarray(half).save(tissue if part == "tissue mask" else drawn)
    kind = {"tissue mask": "mask", "mask as annotation": "annotation"}.get(part, part)
    with pytest.raises(RunError, match=f"slide s: other content of {kind} "):
        fit.accept(recipe_of(), [row], overwrite=False)


def test_a_cohort_that_moved_is_the_same_and_nothing_is_drawn_anew(
    begun: tuple[Path, FitDirectory],
) -> None:
    cohort, fit = begun
    moved = cohort.rename(cohort.with_name("moved"))
    rows = rows_of(moved)
    (note,) = fit.accept(recipe_of(), rows, overwrite=False)
    assert note == "6 files under another path, of the same content"
    assert all(read_samples(row, recipe_of(), fit) is not None for row in rows)
    assert fit.read_cohort() == rows, "who reads patches finds them where they are"
    assert fit.accept(recipe_of(), rows, overwrite=False) == []
    others = [replace(rows[0], label="micro"), *rows[1:]]
    with pytest.raises(RunError, match="slide p0_tumor: label: macro -> micro"):
        fit.accept(recipe_of(), others, overwrite=False)
    without = [*rows[:-1], replace(rows[-1], annotation=rows[0].annotation)]
    with pytest.raises(RunError, match="slide p1_negative: annotation: None -> "):
        fit.accept(recipe_of(), without, overwrite=False)


def test_a_slide_that_was_damaged_may_be_copied_again(
    begun: tuple[Path, FitDirectory],
) -> None:
    cohort, fit = begun
    rows = rows_of(cohort)
    failed = Failure(
        slide_id="p0_negative",
        path=rows[1].path,
        patient_id="p0",
        step="read",
        attempt=1,
        error="tile cannot be decoded",
        hint="copy it again",
    )
    write_annotated_slide(Path(rows[1].path), tumor=False, seed=50)
    with pytest.raises(RunError, match="p0_negative: other content of slide"):
        fit.accept(recipe_of(), rows, overwrite=False)
    fit.write_table(fit.failures, [vars(failed)], FAILURES)
    fit.accept(recipe_of(), rows, overwrite=False)
    assert read_samples(rows[1], recipe_of(), fit) is None, "patches are drawn anew"
    (Path(rows[3].path)).unlink()
    fit.accept(recipe_of(), rows, overwrite=False)
    write_annotated_slide(Path(rows[3].path), tumor=False, seed=51)
    with pytest.raises(RunError, match="p1_negative: other content of slide"):
        fit.accept(recipe_of(), rows, overwrite=False)


def test_a_fit_of_an_older_version_goes_on_by_its_paths(
    begun: tuple[Path, FitDirectory],
) -> None:
    cohort, fit = begun
    rows = rows_of(cohort)
    fit.write_json(fit.added_files, {})
    (note,) = fit.accept(recipe_of(), rows, overwrite=False)
    assert "kept no digests" in note
    assert fit.accept(recipe_of(), rows, overwrite=False) == []
    correct(cohort)
    with pytest.raises(RunError, match="other content of annotation"):
        fit.accept(recipe_of(), rows, overwrite=False)


def test_what_is_replaced_while_a_fit_runs_is_not_read(
    begun: tuple[Path, FitDirectory],
) -> None:
    cohort, fit = begun
    samples = read_table(fit.samples("p0_tumor"))
    draws = draw_validation(samples, limit=4, batch_size=4, seed=0)
    first = patch_reader(str(fit.root), fit.digest())
    assert set(first.read(draws)["error"]) == {""}
    correct(cohort)
    rows = {row.slide_id: row for row in rows_of(cohort)}
    again = PatchReader(rows, recipe_of(), digests=fit.read_digests())
    (error,) = set(again.read(draws)["error"])
    assert error == "its annotation was replaced after the fit was started"
    failure = Failure(
        slide_id="p0_tumor",
        path="p0_tumor.tif",
        patient_id=None,
        step="read",
        attempt=1,
        error=error,
        hint="",
    )
    fit.write_table(fit.failures, [vars(failure)], FAILURES)
    with pytest.raises(RunError, match="other content of annotation"):
        fit.accept(recipe_of(), rows_of(cohort), overwrite=False)
    before = fit.digest()
    fit.accept(recipe_of(), rows_of(cohort), overwrite=True)
    assert fit.digest() != before, "no worker goes on with what it has open"
    second = patch_reader(str(fit.root), fit.digest())
    assert set(second.read(draws)["error"]) == {""}
    first.close()
    second.close()


def with_hard(folder: Path, row: SlideRow) -> Tree:
    found = {"slide_id": row.slide_id, "x": 128, "y": 128, "tumor": 0.5}
    table = pa.Table.from_pylist([{**found, "area_mm2": 0.001}], schema=SAMPLES)
    folder.mkdir()
    write_hard(folder / "hard.parquet", table, fit_patch_px=64, mpp=1.0)
    return {"sampling": {"hard_examples": str(folder / "hard.parquet")}}


def with_regions(folder: Path, row: SlideRow) -> Tree:
    box = [[60, 60], [180, 60], [180, 180], [60, 180], [60, 60]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [box]},
        "properties": {"classification": {"name": "Region*"}},
    }
    folder.mkdir()
    path = folder / f"{row.slide_id}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return {"sampling": {"extra_annotations": str(folder)}}


@pytest.mark.parametrize("added", [with_hard, with_regions])
def test_hard_examples_and_corrections_may_move(
    tmp_path: Path, added: Callable[[Path, SlideRow], Tree]
) -> None:
    rows = write_annotated_cohort(tmp_path / "cohort", patients=1)
    recipe = recipe_of(added(tmp_path / "more", rows[0]))
    fit = FitDirectory(tmp_path / "fit")
    fit.create()
    fit.accept(recipe, rows, overwrite=False)
    drawn = sample_slide(rows[0], recipe, fit)
    (tmp_path / "more").rename(tmp_path / "moved")
    (name,) = to_tree(recipe)["sampling"].keys() & {
        "hard_examples",
        "extra_annotations",
    }
    path = to_tree(recipe)["sampling"][name].replace("/more", "/moved")
    moved = recipe_of({"sampling": {name: path}})
    fit.accept(moved, rows, overwrite=False)
    found = read_samples(rows[0], moved, fit)
    assert found is not None
    assert found.equals(drawn)
    assert read_toml(fit.settings)["sampling"][name] == path


def test_weights_that_a_fit_starts_from_are_told_by_their_bytes(tmp_path: Path) -> None:
    rows = write_annotated_cohort(tmp_path / "cohort", patients=1)
    write_tiny(tmp_path / "init")
    own = {"name": TINY.name, "architecture": TINY.architecture}
    tree: dict[str, Any] = {"members": [own]}
    recipe = recipe_of(tree, init=str(tmp_path / "init"))
    fit = FitDirectory(tmp_path / "fit")
    fit.accept(recipe, rows, overwrite=False)
    shutil.move(tmp_path / "init", tmp_path / "moved")
    moved = recipe_of(tree, init=str(tmp_path / "moved"))
    fit.accept(moved, rows, overwrite=False)
    (spec,) = moved.members
    assert spec.weights == str(tmp_path / "moved" / "tiny.safetensors")
    start_network(spec)
    write_tiny(tmp_path / "moved", seed=1)
    other = recipe_of(tree, init=str(tmp_path / "moved"))
    with pytest.raises(RunError, match=r"members\.tiny\.digest: .* -> "):
        fit.accept(other, rows, overwrite=False)
    with pytest.raises(ValueError, match="not the file the fit was set up with"):
        start_network(spec)
    with pytest.raises(ValueError, match="in the config of member tiny"):
        recipe_of(
            {
                "members": [
                    {
                        **tree["members"][0],
                        "weights": spec.weights,
                        "digest": spec.digest,
                    }
                ]
            }
        )


def test_members_without_a_digest_go_by_path() -> None:
    """Recipes of older versions hold none of the weights that a fit starts from."""

    def tree(**member: str) -> Tree:
        return {"members": [{"name": "a", **member}]}

    known = tree(weights="/w/a.safetensors", digest="1")
    assert difference(tree(weights="/w/a.safetensors"), known) == []
    assert difference(tree(weights="/v/a.safetensors"), known) != []
    assert difference(tree(weights="random"), known) != []
    assert difference(known, tree(weights="/v/a.safetensors", digest="1")) == []
    assert difference(known, tree(weights="/w/a.safetensors", digest="2")) != []
    encoder = tree(weights="random", encoder_weights="/e.pth", digest="1")
    assert (
        difference(
            encoder, tree(weights="random", encoder_weights="/f.pth", digest="1")
        )
        == []
    )
    assert (
        difference(
            encoder, tree(weights="imagenet", encoder_weights="/e.pth", digest="1")
        )
        != []
    )
    assert difference(encoder, tree(weights="/e.pth", digest="1")) != []
