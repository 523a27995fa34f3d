"""Runs that look for artifacts: the same heatmaps, less what is excluded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from digipath_ray.artifacts.file import read_artifacts
from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.outcome.lesions import NEIGHBORS
from digipath_ray.pipeline.finish import remeasure_slide
from digipath_ray.report import write_report
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_run
from digipath_ray.run.identity import hold_against_files
from digipath_ray.schema import OUTCOMES
from digipath_ray.storage.files import read_rows
from digipath_ray.verify.verify import verify_run
from tests.flaws import defocused, disk, drawn_tissue
from tests.runs import RAY_WARNINGS, make_run, small_config
from tests.slides import write_pyramid

GRID = {"mpp": 1.0, "patch_px": 128, "stride_px": 64, "downsample": 8}
TISSUE = {"mask_mpp": 8.0, "margin_um": 0.0}
EXCLUDE = {"find": True, "exclude": ["blur"]}


def config_of(**artifacts: object) -> RunConfig:
    return small_config({"grid": GRID, "tissue": TISSUE, "artifacts": artifacts})


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> SlideRow:
    """A slide that is out of focus in the middle."""
    path = tmp_path_factory.mktemp("slides") / "s.tif"
    tissue = drawn_tissue(1000, 900)
    where = disk(tissue.shape[:2], x=500, y=450, radius_px=280)
    pixels = defocused(tissue, where, radius_px=6)
    write_pyramid(path, pixels, mpp=1.0, downsamples=(1, 2), tile=256)
    return SlideRow(slide_id="s", path=str(path))


@pytest.fixture(scope="module")
def off(row: SlideRow, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("off") / "run", [row], config_of())


@pytest.fixture(scope="module")
def found(row: SlideRow, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("found")
    return make_run(folder / "run", [row], config_of(find=True))


@pytest.fixture(scope="module")
def excluded(row: SlideRow, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("excluded")
    return make_run(folder / "run", [row], config_of(**EXCLUDE))


def test_looking_changes_no_bit_of_a_heatmap(
    off: RunDirectory, found: RunDirectory
) -> None:
    plain, looked = (read_heatmap(run.heatmap("s")) for run in (off, found))
    assert plain.data.tobytes() == looked.data.tobytes()
    assert plain.weight.tobytes() == looked.weight.tobytes()
    assert not (off.root / "artifacts").exists()
    assert "artifact" not in off.lesions("s").read_text()
    assert read_rows(off.outcomes, OUTCOMES)[0]["artifact_blur"] is None


def test_trusted_tissue_is_predicted_as_if_nothing_were_excluded(
    found: RunDirectory, excluded: RunDirectory
) -> None:
    whole, less = (read_run(run).slide("s") for run in (found, excluded))
    assert less.record.patches <= whole.record.patches - 8
    assert less.artifacts is not None
    trusted = less.tissue & (less.artifacts == 0)
    assert less.heatmap.covered[trusted].all()
    got, want = (slide.heatmap.data[:, trusted] for slide in (less, whole))
    assert np.allclose(got, want, atol=1e-6)
    assert (less.tissue & ~less.heatmap.covered).any()
    assert whole.heatmap.covered[whole.tissue].all()


def test_lesions_in_artifacts_are_marked(found: RunDirectory) -> None:
    slide, config = read_run(found).slide("s"), config_of(find=True)
    assert slide.artifacts is not None
    threshold = float(np.quantile(slide.heatmap.probability[slide.tissue], 0.7))
    spec = replace(config.outcome, threshold=threshold)
    remeasure_slide(found, found.read_record("s"), replace(config, outcome=spec))
    record = found.read_record("s")
    above = slide.heatmap.above(threshold)
    labels, number = ndimage.label(above, NEIGHBORS)
    parts = []
    for label in range(1, number + 1):
        where = labels == label
        inside = slide.artifacts[where]
        parts.append((int(where.sum()), float((inside > 0).mean())))
    features = json.loads(found.lesions("s").read_text())["features"]
    measures = [f["properties"]["measurements"] for f in features]
    assert len(measures) == number > 1
    px_mm2 = slide.heatmap.mpp_x * slide.heatmap.mpp_y / 1e6
    got = [(round(m["Area mm^2"] / px_mm2), m["In artifacts"]) for m in measures]
    assert np.allclose(sorted(got), sorted(parts))
    assert any(part >= 0.5 for _, part in parts)
    assert any(part < 0.5 for _, part in parts)
    for feature, lesion in zip(features, record.lesions, strict=False):
        part = feature["properties"]["measurements"]["In artifacts"]
        assert lesion["artifact"] == ("blur" if part >= 0.5 else None)
        marked = "(artifact: blur)" in feature["properties"]["name"]
        assert marked == (part >= 0.5)


def test_the_outcome_says_how_much(found: RunDirectory) -> None:
    (outcome,) = read_rows(found.outcomes, OUTCOMES)
    indexes = read_artifacts(found.artifacts("s")).indexes
    assert outcome["artifact_blur"] > 0.2
    assert outcome["artifact_fold"] == 0
    assert indexes.any()
    assert "artifact: blur" in outcome["qc"]
    write_report(found)
    page = found.report.read_text("utf-8")
    assert "of the tissue is out of focus" in page
    assert "artifacts" in page


def test_a_run_knows_its_maps(found: RunDirectory, excluded: RunDirectory) -> None:
    assert verify_run(excluded).is_right
    record = excluded.read_record("s")
    assert {"artifacts", "artifact_outlines"} <= set(record.files)
    path = excluded.artifacts("s")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1])
        (fault,) = verify_run(excluded).faults
        assert (fault.where, fault.what) == (
            "artifacts/s.png",
            "is not as it was written",
        )
        path.unlink()
        (fault,) = verify_run(excluded).faults
        assert fault.what == "is gone"
    finally:
        path.write_bytes(whole)
    assert verify_run(excluded).is_right


on_ray = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings(RAY_WARNINGS),
]


class TestOnRay:
    """What needs Ray's tasks."""

    pytestmark = on_ray

    def test_a_run_on_ray_is_that_of_one_process(
        self, row: SlideRow, excluded: RunDirectory, tmp_path: Path
    ) -> None:
        from digipath_ray.distributed.run import run_cohort

        run = RunDirectory(tmp_path / "run")
        gray = drawn_tissue(600, 600)
        everywhere = np.ones(gray.shape[:2], np.bool_)
        path = tmp_path / "gone.tif"
        pixels = defocused(gray, everywhere, radius_px=5)
        write_pyramid(path, pixels, mpp=1.0, downsamples=(1,), tile=256)
        rows = [row, SlideRow(slide_id="gone", path=str(path))]
        summary = run_cohort(run, rows, config_of(**EXCLUDE))
        (failure,) = summary.failures
        assert (failure.slide_id, failure.step) == ("gone", "prepare")
        assert failure.error.startswith("no tissue that can be trusted: out of focus")
        assert run.artifacts("s").read_bytes() == excluded.artifacts("s").read_bytes()
        now, then = (read_heatmap(r.heatmap("s")) for r in (run, excluded))
        assert np.allclose(now.data, then.data, atol=1e-6)
        assert verify_run(run).is_right
        done, _ = hold_against_files(run, rows, run.read_done())
        assert list(done) == ["s"], "it need not be made again"
