"""Finished slides with their heatmaps, and the truth at their heatmaps' pixels."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from digipath_ray.artifacts.file import read_artifacts
from digipath_ray.artifacts.kinds import ArtifactMap, Indexes
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree, read_toml
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap, on_heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.slide.info import Canvas
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import Mask, at_centers, read_mask

Bools = NDArray[np.bool_]
WITH_CANVAS = (".mrxs", ".scn", ".bif", ".czi")
"""Suffixes of formats that OpenSlide states bounds for."""


def may_have_canvas(path: str) -> bool:
    """Whether a slide on a disk is of a format that may be part of a larger canvas."""
    return Path(path).suffix.lower() in WITH_CANVAS and Path(path).is_file()


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedSlide:
    """A slide with its heatmap.

    Attributes:
        record: the slide.
        heatmap: what was predicted.
        tissue: bool [H, W], at the heatmap's pixels.
        members: names of those that predicted it.
        artifacts: uint8 [H, W], index of their kind at the heatmap's pixels; None if
            they were not looked for.
    """

    record: SlideRecord
    heatmap: Heatmap
    tissue: Bools
    members: tuple[str, ...]
    artifacts: Indexes | None = None

    @classmethod
    def of(
        cls,
        record: SlideRecord,
        heatmap: Heatmap,
        tissue: Mask,
        *,
        members: Iterable[str],
        artifacts: ArtifactMap | None = None,
    ) -> Self:
        """A slide of its record, heatmap, tissue mask and artifacts."""
        indexes = None
        if artifacts is not None:
            indexes = at_centers(
                artifacts.indexes,
                heatmap.weight.shape,
                mpp=(artifacts.mpp_x, artifacts.mpp_y),
                onto=(heatmap.mpp_x, heatmap.mpp_y),
            )
        return cls(
            record=record,
            heatmap=heatmap,
            tissue=on_heatmap(tissue, heatmap),
            members=tuple(members),
            artifacts=indexes,
        )

    @property
    def width(self) -> int:
        """Width in level-0 px."""
        return self.record.width

    @property
    def height(self) -> int:
        """Height in level-0 px."""
        return self.record.height

    @cached_property
    def canvas(self) -> Canvas | None:
        """Where the slide lies in its canvas; None if it is its own.

        A run of an older version did not keep it: then its file says, if it is there.

        Raises:
            SlideError: the file is damaged.
        """
        record = self.record
        if record.canvas_width is not None or not may_have_canvas(record.path):
            return record.canvas
        with open_slide(record.path) as opened:
            return opened.info.canvas

    @property
    def l0_per_hm_x(self) -> float:
        """Level-0 px per heatmap px, from left to right."""
        return self.heatmap.mpp_x / self.record.mpp_x

    @property
    def l0_per_hm_y(self) -> float:
        """Level-0 px per heatmap px, from top to bottom."""
        return self.heatmap.mpp_y / self.record.mpp_y

    @property
    def predicted(self) -> Bools:
        """Bool [H, W]: tissue that a patch covers."""
        return np.asarray(self.tissue & self.heatmap.covered)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run of which at least one slide is finished.

    Attributes:
        directory: of the run.
        config: of the run.
        records: slide_id -> record, of the finished slides.
        failures: slides that failed.
    """

    directory: RunDirectory
    config: RunConfig
    records: dict[str, DoneRecord]
    failures: tuple[Failure, ...] = ()

    def slide(self, slide_id: str) -> FinishedSlide:
        """A finished slide with its heatmap.

        Raises:
            FileNotFoundError: its heatmap or mask is gone.
            ValueError: one of them is damaged.
        """
        return read_finished(self.directory, self.records[slide_id])

    def why_absent(self, slide_id: str) -> str:
        """Why the run has no result for a slide."""
        for failure in self.failures:
            if failure.slide_id == slide_id:
                return f"it failed at step {failure.step}: {failure.error}"
        return "it was not run"


def read_finished(run: RunDirectory, record: DoneRecord) -> FinishedSlide:
    """A slide of a run with its heatmap.

    Raises:
        FileNotFoundError: its heatmap or mask is gone.
        ValueError: one of them is damaged.
    """
    slide_id = record.slide.slide_id
    heatmap, measured = read_heatmap(run.heatmap(slide_id)), record.measured or {}
    if measured.get("refine", "none") != "none":
        refined = read_mask(run.refined(slide_id)).array
        heatmap = replace(heatmap, refined=refined, refined_at=measured["threshold"])
    return FinishedSlide.of(
        record.slide,
        heatmap,
        read_mask(run.mask(slide_id)),
        members=record.members,
        artifacts=read_map(run, record.slide),
    )


def read_map(run: RunDirectory, record: SlideRecord) -> ArtifactMap | None:
    """A slide's map of artifacts; None if they were not looked for.

    Raises:
        FileNotFoundError: it is gone.
        ValueError: it is damaged.
    """
    return read_artifacts(run.artifacts(record.slide_id)) if record.artifacts else None


def read_run(run: RunDirectory) -> FinishedRun:
    """A finished run.

    Raises:
        ValueError: no slide of it is finished.
    """
    records = run.read_done() if run.settings.exists() else {}
    if not records:
        raise ValueError(
            f"{run.root}: no finished run: name the directory given to digipath run "
            "--out"
        )
    return FinishedRun(
        directory=run,
        config=from_tree(read_toml(run.settings)),
        records=records,
        failures=tuple(run.read_failures()),
    )
