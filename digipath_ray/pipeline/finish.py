"""A slide's end: chunks stitched into a heatmap, maps written, outcome measured.

:func:`finish_slide` writes the ``done`` record last of all; :func:`remeasure_slide`
recomputes what follows from the heatmap.
"""

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from digipath_ray.config.run import REFINING, RunConfig
from digipath_ray.figures.overlay import write_overlay
from digipath_ray.heatmap.canvas import Canvas
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.networks.notes import overlay_notes
from digipath_ray.outcome.lesion_files import write_outcome
from digipath_ray.outcome.measure import measure_slide, measured_with
from digipath_ray.outcome.refine import Box, refine_heatmap
from digipath_ray.patches import Grid
from digipath_ray.pipeline.chunk import ChunkSums
from digipath_ray.pipeline.prepare import open_cohort_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide, read_finished, read_map
from digipath_ray.run.provenance import flat, provenance
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.slide.image import read_picture
from digipath_ray.slide.info import Pixels
from digipath_ray.storage.files import file_digest, publish
from digipath_ray.tissue.mask import Mask, read_mask, write_mask

PREPARED = (
    *("thumbnail", "mask", "mask_overlay"),
    *("artifacts", "artifact_outlines", "patches"),
)
DRAWN = ("overlay",)
MEASURED = ("refined", "lesions", "class_outlines", "viable", "whole")
"""Kinds of a slide's files, by the step that makes them; the heatmap is apart."""


def stitch(grid: Grid, chunks: Iterable[ChunkSums], config: RunConfig) -> Heatmap:
    """The heatmap of a slide; the same bits in whatever order its chunks came."""
    canvas = Canvas.empty(config.summed, width=grid.hm_width, height=grid.hm_height)
    for part in sorted(chunks, key=lambda c: c.chunk):
        canvas.add(part.blocks, part.sums, part.weight)
    mpp_x, mpp_y = grid.hm_mpp
    return canvas.heatmap(mpp_x=mpp_x, mpp_y=mpp_y)


def finish_slide(
    run: RunDirectory,
    record: SlideRecord,
    chunks: Sequence[ChunkSums],
    config: RunConfig,
    *,
    seconds: float,
    devices: Sequence[str],
) -> dict[str, Any]:
    """Stitch a slide, write its maps, and last of all its ``done`` record.

    Args:
        run: where to.
        record: the slide.
        chunks: all of its chunks.
        config: of the run.
        seconds: that reading and predicting it took.
        devices: names of those that the networks ran on.

    Returns:
        The slide's row of the OUTCOMES table, without what the cohort decides.
    """
    slide_id = record.slide_id
    heatmap = stitch(record.grid(config.grid), chunks, config)
    made_with = provenance(config, devices)
    members = {m.name: m.digest or m.weights or "random" for m in config.members}
    with publish(run.heatmap(slide_id)) as path:
        notes = flat({**made_with, "weights": members})
        write_heatmap(path, heatmap, name=slide_id, notes=notes)
        digest = file_digest(path)
    slide = FinishedSlide.of(
        record,
        heatmap,
        read_mask(run.mask(slide_id)),
        members=members,
        artifacts=read_map(run, record),
    )
    slide = outline(slide, config)
    draw_slide(run, slide, config)
    measured = measure(run, slide, config)
    measured["outcome"] |= {"seconds": seconds, "members": list(members)}
    done = DoneRecord(
        **measured,
        slide=record,
        precision=config.compute.precision,
        members=members,
        files={**digest_files(run, slide_id), "heatmap": digest},
        made_with=made_with,
    )
    run.write_record(done)
    return done.outcome


def digest_files(
    run: RunDirectory,
    slide_id: str,
    kinds: Collection[str] = (*PREPARED, *DRAWN, *MEASURED),
) -> dict[str, str]:
    """Kind -> SHA-256 of those files of a slide that were made."""
    paths, found = run.slide_files(slide_id), {}
    for kind in kinds:
        with contextlib.suppress(FileNotFoundError):
            found[kind] = file_digest(paths[kind])
    return found


def check_intact(run: RunDirectory, record: DoneRecord, kinds: Collection[str]) -> None:
    """Refuse files of a finished slide that are not as they were written.

    Raises:
        FileNotFoundError: one is gone.
        ValueError: one has other content.
    """
    paths = run.slide_files(record.slide.slide_id)
    for kind in kinds:
        if kind in record.files and file_digest(paths[kind]) != record.files[kind]:
            raise ValueError(
                f"{paths[kind]}: changed after it was written: have its slide run again"
            )


def measure(
    run: RunDirectory, slide: FinishedSlide, config: RunConfig
) -> dict[str, Any]:
    """Measure a slide and publish its lesions, and its refined outline if it has one.

    Returns:
        The fields of its ``done`` record that follow from the heatmap.
    """
    outcome, heatmap = measure_slide(slide, config), slide.heatmap
    if heatmap.refined is not None:
        mask = Mask(array=heatmap.refined, mpp_x=heatmap.mpp_x, mpp_y=heatmap.mpp_y)
        with publish(run.refined(slide.record.slide_id)) as path:
            write_mask(path, mask)
    write_outcome(run, slide, outcome)
    return {
        "outcome": outcome.row,
        "features": outcome.features,
        "lesions": outcome.listed,
        "groups": [[group.extent_um, group.max_p] for group in outcome.groups],
        "measured": measured_with(config),
    }


def remeasure_slide(run: RunDirectory, record: DoneRecord, config: RunConfig) -> None:
    """Measure a finished slide's heatmap again, and publish its record with it.

    Args:
        run: where the slide is finished.
        record: its ``done`` record.
        config: of the run, with another [outcome].

    Raises:
        FileNotFoundError: its heatmap or mask is gone.
        ValueError: one of them is damaged.
    """
    slide_id = record.slide.slide_id
    check_intact(run, record, ("heatmap", "mask", "artifacts"))
    before, now = record.measured or {}, measured_with(config)
    slide = read_finished(run, replace(record, measured=None))
    slide = outline(slide, config)
    for path in (run.refined(slide_id), run.viable(slide_id), run.whole(slide_id)):
        path.unlink(missing_ok=True)  # of an earlier outcome
    redrawn = any(before.get(n) != now.get(n) for n in ("threshold", *REFINING))
    if redrawn:
        draw_slide(run, slide, config)
    measured = measure(run, slide, config)
    of_before = ("seconds", "members")
    measured["outcome"] |= {name: record.outcome.get(name) for name in of_before}
    kept = {kind: v for kind, v in record.files.items() if kind not in MEASURED}
    made = (*MEASURED, *DRAWN) if redrawn else MEASURED
    files = {**kept, **digest_files(run, slide_id, made)}
    run.write_record(replace(record, **measured, files=files))


def outline(slide: FinishedSlide, config: RunConfig) -> FinishedSlide:
    """The slide with its tumor outlined as ``[outcome] refine`` says.

    Raises:
        SlideError: the slide's pixels are to be looked at, and it cannot be read.
    """
    spec, record, heatmap = config.outcome, slide.record, slide.heatmap
    if spec.refine == "none":
        return slide
    l0_per_px = slide.l0_per_hm_x, slide.l0_per_hm_y
    opened = open_cohort_slide(
        record.path, record.mpp, config, version=record.version, digest=record.digest
    )
    with opened as source:

        def read_colors(box: Box) -> Pixels:
            return source.means(l0_per_px, box)

        refined = refine_heatmap(heatmap, read_colors, spec)
    outlined = replace(heatmap, refined=refined, refined_at=spec.threshold)
    return replace(slide, heatmap=outlined)


def draw_slide(run: RunDirectory, slide: FinishedSlide, config: RunConfig) -> None:
    """Publish the slide's overlay."""
    record = slide.record
    thumbnail = read_picture(run.thumbnail(record.slide_id))
    height, width = thumbnail.shape[:2]
    mpp = record.width * record.mpp_x / width, record.height * record.mpp_y / height
    with publish(run.overlay(record.slide_id)) as path:
        write_overlay(
            path,
            thumbnail,
            slide.heatmap,
            thumbnail_mpp=mpp,
            title=record.slide_id,
            notes=overlay_notes(config),
            threshold=config.outcome.threshold,
            artifacts=slide.artifacts,
        )
