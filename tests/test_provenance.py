"""What predicted a slide is in its record and in its heatmap."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tifffile

import digipath_ray
from digipath_ray.config.toml import from_tree
from digipath_ray.distributed.run import run_cohort
from digipath_ray.machine import processor_name
from digipath_ray.run import provenance as provenance_module
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.provenance import commit, flat, provenance, settings_digest
from tests.runs import small_config, write_cohort


@pytest.mark.ray
def test_a_run_notes_what_it_was_made_with(tmp_path: Path, ray_here: None) -> None:
    rows = write_cohort(tmp_path / "cohort", 1)
    config = small_config({"compute": {"pools": "per-member"}})
    run = RunDirectory(tmp_path / "run")
    run_cohort(run, rows, config)
    record = run.read_record("s00")
    assert record.made_with is not None
    assert record.made_with["version"] == digipath_ray.__version__
    assert record.made_with["precision"] == record.precision == "float32"
    assert record.made_with["device"] == [processor_name()]
    assert record.made_with["settings"] == settings_digest(config)
    assert record.made_with["libraries"]["torch"] == version("torch")
    with tifffile.TiffFile(run.heatmap("s00")) as tiff:
        text = tiff.ome_metadata
    assert text is not None
    (annotation,) = ElementTree.fromstring(text).iter(
        "{http://www.openmicroscopy.org/Schemas/OME/2016-06}MapAnnotation"
    )
    pairs = {m.get("K"): m.text for m in annotation.iter() if m.get("K")}
    assert pairs == flat({**record.made_with, "weights": record.members})
    assert pairs["libraries.numpy"] == version("numpy")
    assert pairs["device"] == processor_name()


def test_the_digest_of_settings_stays_that_of_records_written_before() -> None:
    member = {"name": "a", "architecture": "Unet", "encoder": "resnet18"}
    config = from_tree({"members": [{**member, "weights": "random"}]})
    assert settings_digest(config) == (  # of a version that knew fewer settings
        "d3d606dd8ca633f0be30068ed3e02fd6132e459f8e84d0bc4b5133a358a4e6da"
    )
    plain, strided = (
        from_tree({"members": [{**member, **more}]})
        for more in ({}, {"output_stride": 2})
    )
    assert settings_digest(strided) != settings_digest(plain)


def test_settings_that_no_heatmap_depends_on_are_left_out() -> None:
    config = small_config()
    same = [
        small_config({"compute": {"chunk_cells": 32}}),
        small_config({"outcome": {"threshold": 0.3}}),
    ]
    other = small_config({"ensemble": {"blend": "linear"}})
    assert {settings_digest(c) for c in same} == {settings_digest(config)}
    assert settings_digest(other) != settings_digest(config)


def test_devices_are_named_once() -> None:
    assert provenance(small_config(), ["b", "a", "b"])["device"] == ["a", "b"]


def test_a_build_knows_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "digipath_ray"
    package.mkdir()
    monkeypatch.setattr(digipath_ray, "__file__", str(package / "__init__.py"))
    commit.cache_clear()
    assert commit() is None
    (package / "commit.txt").write_text("abc-dirty\n", "utf-8")
    commit.cache_clear()
    assert commit() == "abc-dirty"
    (package / "commit.txt").unlink()
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        (package / "a.py").touch()
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    commit.cache_clear()
    found = commit()
    assert found is not None
    assert len(found) == 40
    commit.cache_clear()


def test_a_build_notes_its_commit_where_the_package_looks() -> None:
    build = Path(__file__).parents[1] / "hatch_build.py"
    line = f'COMMIT = ("digipath_ray", "{provenance_module.COMMIT}")'
    assert line in build.read_text("utf-8")
