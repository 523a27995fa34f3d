"""A slide's end: chunks stitched into a heatmap, maps written, outcome measured.

:func:`finish_slide` writes the ``done`` record last of all; :func:`remeasure_slide`
makes what follows from the heatmap anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from digipath_ray.config.run import RunConfig
from digipath_ray.figures.overlay import write_overlay
from digipath_ray.heatmap.canvas import Canvas, Heatmap
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.networks.notes import overlay_notes
from digipath_ray.outcome.geojson import write_outcome
from digipath_ray.outcome.measure import measure_slide, measured_with
from digipath_ray.patches import Grid
from digipath_ray.pipeline.chunk import ChunkSums
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide, finished_slide, read_finished
from digipath_ray.run.prepared import PreparedSlide
from digipath_ray.storage.files import file_digest, open_file, publish
from digipath_ray.tissue.mask import read_mask


def stitch(grid: Grid, chunks: Iterable[ChunkSums], config: RunConfig) -> Heatmap:
    """The heatmap of a slide; the same bits in whatever order its chunks came."""
    canvas = Canvas.empty(config.channels, width=grid.hm_width, height=grid.hm_height)
    for part in sorted(chunks, key=lambda c: c.chunk):
        canvas.add(part.blocks, part.sums, part.weight)
    mpp_x, mpp_y = grid.hm_mpp
    return canvas.heatmap(mpp_x=mpp_x, mpp_y=mpp_y)


def finish_slide(
    run: RunDirectory,
    prepared: PreparedSlide,
    chunks: Sequence[ChunkSums],
    config: RunConfig,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Stitch a slide, write its maps, and last of all its ``done`` record.

    Returns:
        The slide's row of the OUTCOMES table, without what the cohort decides.
    """
    slide_id = prepared.slide_id
    heatmap = stitch(prepared.grid(config.grid), chunks, config)
    with publish(run.heatmap(slide_id)) as path:
        write_heatmap(path, heatmap, name=slide_id)
        digest = file_digest(path)
    members = [member.name for member in config.members]
    tissue = read_mask(run.mask(slide_id))
    slide = finished_slide(prepared.row, heatmap, tissue, members=members)
    draw_slide(run, slide, prepared.row, config)
    measured = measure(run, slide, prepared.row, config)
    measured["outcome"] |= {"seconds": seconds, "members": members}
    record = {
        **measured,
        "slide": prepared.row,
        "slide_mpp": prepared.slide_mpp,
        "mask_digest": prepared.mask_digest,
        "precision": config.compute.precision,
        "members": {m.name: m.digest or m.weights for m in config.members},
        "files": {"heatmap": digest},
    }
    run.write_json(run.done(slide_id), record)
    return dict(measured["outcome"])


def measure(
    run: RunDirectory, slide: FinishedSlide, told: Mapping[str, Any], config: RunConfig
) -> dict[str, Any]:
    """Measure a slide and publish its lesions; what its ``done`` record says of it."""
    outcome = measure_slide(slide, told, config)
    write_outcome(run, slide, outcome)
    return {
        "outcome": outcome.row,
        "features": outcome.features,
        "lesions": outcome.listed,
        "groups": [[group.extent_um, group.max_p] for group in outcome.groups],
        "measured": measured_with(config),
    }


def remeasure_slide(
    run: RunDirectory, record: Mapping[str, Any], config: RunConfig
) -> None:
    """Measure a finished slide's heatmap anew, and publish its record with it.

    Args:
        run: where the slide is finished.
        record: its ``done`` record.
        config: of the run, with another [outcome] or threshold.

    Raises:
        FileNotFoundError: its heatmap or mask is gone.
        ValueError: one of them is damaged.
    """
    slide = read_finished(run, record)
    measured = measure(run, slide, record["slide"], config)
    kept = {name: record["outcome"].get(name) for name in ("seconds", "members")}
    measured["outcome"] |= kept
    run.write_json(run.done(slide.row.slide_id), {**record, **measured})


def draw_slide(
    run: RunDirectory, slide: FinishedSlide, told: Mapping[str, Any], config: RunConfig
) -> None:
    """Publish the slide's overlay."""
    slide_id = slide.row.slide_id
    with open_file(run.thumbnail(slide_id)) as file, Image.open(file) as image:
        thumbnail = np.asarray(image.convert("RGB"))
    height, width = thumbnail.shape[:2]
    mpp = (
        told["width"] * told["mpp_x"] / width,
        told["height"] * told["mpp_y"] / height,
    )
    with publish(run.overlay(slide_id)) as path:
        write_overlay(
            path,
            thumbnail,
            slide.heatmap,
            thumbnail_mpp=mpp,
            title=slide_id,
            notes=overlay_notes(config),
            threshold=config.ensemble.threshold,
        )
