"""Contents of a run directory, read once."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import ConfigDict, TypeAdapter, ValidationError

from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree, read_toml
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.run.record import DoneRecord
from digipath_ray.schema import OUTCOMES, PATIENTS, SLIDES
from digipath_ray.storage.files import (
    file_digest,
    first_error,
    modified,
    read_json,
    read_rows,
    read_text,
)

Row = Mapping[str, Any]


FINITE = ConfigDict(allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class ReadingPart:
    """What metrics.json says of reading, as far as a report shows it."""

    __pydantic_config__: ClassVar = FINITE

    workers: int
    busy: float


@dataclass(frozen=True, kw_only=True)
class NetworksPart(ReadingPart):
    """The same of the networks."""

    on: str


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What metrics.json says, as far as a report shows it; more may be there."""

    __pydantic_config__: ClassVar = FINITE

    patches: int | None = None
    patches_per_s: float | None = None
    predicted_share: float = 1.0
    prepare_s: float | None = None
    start_s: float | None = None
    segment_s: float | None = None
    read: ReadingPart | None = None
    predict: NetworksPart | None = None
    batch_fill: float | None = None
    bottleneck: str | None = None
    machine: dict[str, Any] | None = None


METRICS: TypeAdapter[Metrics] = TypeAdapter(Metrics)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Tables and records of a run.

    Attributes:
        name: the last two parts of the directory's path.
        config: config of the run.
        settings: text of run.toml.
        slides: slide_id -> row of SLIDES, for prepared slides.
        outcomes: slide_id -> row of OUTCOMES, for finished slides; without those with
            outdated measures that could not be recomputed.
        failures: slides that failed.
        patients: rows of PATIENTS; empty without staging.
        records: slide_id -> ``done`` record.
        metrics: speed of the run; empty if not recorded.
        stage_model: SHA-256 of the stage model; None without one.
        when: time of the newest file.
    """

    name: str
    config: RunConfig
    settings: str
    slides: dict[str, Row]
    outcomes: dict[str, Row]
    failures: tuple[Failure, ...]
    patients: tuple[Row, ...]
    records: dict[str, DoneRecord]
    metrics: Row
    stage_model: str | None
    when: datetime

    @property
    def unfinished(self) -> list[str]:
        """Prepared slides that neither finished nor failed."""
        over = {*self.outcomes, *(f.slide_id for f in self.failures)}
        return [slide_id for slide_id in self.slides if slide_id not in over]

    def slide(self, slide_id: str) -> Row:
        """Row of a slide in SLIDES; empty if never prepared."""
        if slide_id in self.slides:
            return self.slides[slide_id]
        record = self.records.get(slide_id)
        return {} if record is None else record.slide.to_row()

    def lesions(self, slide_id: str) -> list[Row]:
        """Lesions of the slide's record, largest first."""
        record = self.records.get(slide_id)
        return [] if record is None else list(record.lesions)


def read_findings(run: RunDirectory) -> Findings:
    """Read everything a report needs from a run directory.

    Raises:
        RunError: not a run directory.
        ValueError: a file is damaged.
    """
    if not run.settings.is_file():
        raise RunError(
            f"{run.root}: not a run directory, run.toml is missing: give the folder "
            "of digipath run --out"
        )
    config = from_tree(read_toml(run.settings))
    failures = tuple(run.read_failures())
    failed = {failure.slide_id for failure in failures}
    return Findings(
        name="/".join(run.root.parts[-2:]).lstrip("/"),
        config=config,
        settings=read_text(run.settings),
        slides={row["slide_id"]: row for row in _rows(run.slides, SLIDES)},
        outcomes={
            row["slide_id"]: row
            for row in _rows(run.outcomes, OUTCOMES)
            if row["slide_id"] not in failed
        },
        failures=failures,
        patients=tuple(_rows(run.patients, PATIENTS)),
        records=run.read_done(),
        metrics=_read_metrics(run.metrics),
        stage_model=_digest(config.outcome.stage_model),
        when=_newest(run),
    )


def _rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    return read_rows(path, schema) if path.is_file() else []


def _read_metrics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    metrics = read_json(path)
    try:
        # From JSON: strict validation of Python's own takes no dict for a dataclass.
        found = METRICS.validate_json(json.dumps(metrics), strict=True)
    except ValidationError as e:
        raise ValueError(
            f"{path}: no metrics of a run: {first_error(e)}: delete it"
        ) from e
    return {key: value for key, value in asdict(found).items() if value is not None}


def _digest(path: str | None) -> str | None:
    return file_digest(path) if path is not None and Path(path).is_file() else None


def _newest(run: RunDirectory) -> datetime:
    files = (run.settings, run.outcomes, run.patients, run.failures)
    return max(modified(path) for path in files if path.is_file())
