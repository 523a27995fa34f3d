"""Outcomes made anew from a finished run, by real Ray tasks and without a network."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from digipath_ray.cli.app import app
from digipath_ray.config.run import OutcomeSpec
from digipath_ray.config.toml import to_tree
from digipath_ray.distributed.run import remeasure_run, run_cohort
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from tests.runs import RAY_WARNINGS, make_run, small_config, write_cohort

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings(RAY_WARNINGS),
]
STAGE = OutcomeSpec(
    outcome="stage", min_lesion_um=5.0, min_lesion_p=0.1, refine="contour"
)


def test_a_run_is_measured_anew_as_if_it_had_been_so_at_first(tmp_path: Path) -> None:
    rows = write_cohort(tmp_path / "slides", 2)
    plain = resolve(to_tree(small_config()))
    staged = replace(plain, outcome=STAGE)
    run = make_run(tmp_path / "run", rows, plain)
    first = make_run(tmp_path / "first", rows, staged)
    assert not run.patients.exists()
    made = run.heatmap("s00").stat().st_mtime_ns

    summary = remeasure_run(run, staged)

    assert run.heatmap("s00").stat().st_mtime_ns == made
    assert summary.failures == []
    assert [p.patient_id for p in summary.patients] == ["p"]
    for name in ("features", "measured", "lesions", "groups"):
        now, then = run.read_record("s00"), first.read_record("s00")
        assert getattr(now, name) == getattr(then, name)
    assert run.lesions("s00").read_text() == first.lesions("s00").read_text()
    assert run.refined("s00").read_bytes() == first.refined("s00").read_bytes()
    for table in ("features", "patients"):
        ours, theirs = getattr(run, table), getattr(first, table)
        assert pq.read_table(ours) == pq.read_table(theirs)
    assert run.report.exists()
    # The same line again has nothing to do, and the run goes on with what it has.
    again = run_cohort(run, rows, staged)
    assert (again.skipped, again.failures) == (2, [])
    assert again.patients == summary.patients


def test_a_damaged_heatmap_is_a_failure_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_cohort(tmp_path / "slides", 2)
    plain = resolve(to_tree(small_config()))
    run = make_run(tmp_path / "run", rows, plain)
    before = run.read_record("s01").outcome
    run.heatmap("s01").write_bytes(b"no TIFF")
    monkeypatch.chdir(tmp_path)
    # What differs from the run's own settings is what makes slides stale.
    result = CliRunner().invoke(
        app, ["stage", "run", "--min-lesion-um", "5", "--nodes", "3"]
    )
    assert result.exit_code == 1, result.output
    (failure,) = run.read_failures()
    assert (failure.slide_id, failure.step) == ("s01", "measure")
    assert "changed after it was written" in failure.error
    assert run.read_record("s00").features is not None
    assert run.read_record("s01").outcome == before
    assert "at least" in result.output
    (patient,) = pq.read_table(run.patients).to_pylist()
    assert (patient["missing"], patient["complete"]) == (2, False)


def test_a_run_without_slides_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    with pytest.raises(RunError, match="no slide is finished yet"):
        remeasure_run(run, small_config())
    result = CliRunner().invoke(app, ["burden", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, RunError)
