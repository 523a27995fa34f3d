"""A slide's end: chunks stitched into a heatmap, maps written, outcome measured.

:func:`finish_slide` writes the ``done`` record last of all.
"""

import functools
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.card import file_digest, read_card
from digipath_ray.chunk import ChunkSums
from digipath_ray.config import MemberSpec, RunConfig
from digipath_ray.heatmap import Canvas, Heatmap, write_heatmap
from digipath_ray.mask import Mask, read_mask
from digipath_ray.overlay import write_overlay
from digipath_ray.patches import Grid
from digipath_ray.prepared import PreparedSlide
from digipath_ray.rundir import RunDirectory, publish


def stitch(grid: Grid, chunks: Iterable[ChunkSums], config: RunConfig) -> Heatmap:
    """The heatmap of a slide; the same bits in whatever order its chunks came."""
    canvas = Canvas.empty(config.channels, width=grid.hm_width, height=grid.hm_height)
    for part in sorted(chunks, key=lambda c: c.chunk):
        canvas.add(part.blocks, part.sums, part.weight)
    mpp_x, mpp_y = grid.hm_mpp
    return canvas.heatmap(mpp_x=mpp_x, mpp_y=mpp_y)


def on_heatmap(mask: Mask, heatmap: Heatmap) -> NDArray[np.bool_]:
    """The mask [H, W] at the heatmap's pixels, nearest by position in um."""
    height, width = heatmap.weight.shape
    rows = ((np.arange(height) + 0.5) * heatmap.mpp_y / mask.mpp_y).astype(int)
    cols = ((np.arange(width) + 0.5) * heatmap.mpp_x / mask.mpp_x).astype(int)
    last_row, last_col = mask.array.shape[0] - 1, mask.array.shape[1] - 1
    return mask.array[np.ix_(rows.clip(max=last_row), cols.clip(max=last_col))]


def measure_outcome(
    prepared: PreparedSlide, heatmap: Heatmap, tissue: Mask, *, threshold: float
) -> dict[str, Any]:
    """A slide's row of the OUTCOMES table, but for its seconds."""
    row = prepared.row
    over = on_heatmap(tissue, heatmap) & (heatmap.weight > 0)
    outcome: dict[str, Any] = {
        "slide_id": row["slide_id"],
        "patient_id": row["patient_id"],
        "tumor_mm2": heatmap.area_mm2(threshold),
        "tissue_mm2": row["tissue_mm2"],
        "probability_max": float(heatmap.probability[over].max(initial=0.0)),
        "upsampled": row["upsampled"],
        "qc": row["qc"],
        "seen_by": row.get("seen_by"),
        "patches": row["patches"],
    }
    for name in ("aleatoric", "epistemic"):
        values = getattr(heatmap, name)
        known = values is not None and bool(over.any())
        outcome[f"{name}_mean"] = float(values[over].mean()) if known else None
        outcome[f"{name}_max"] = float(values[over].max()) if known else None
    return outcome


@functools.cache
def demo_digests() -> frozenset[str]:
    """Digests of the weights that come with the package."""
    folder = Path(str(resources.files("digipath_ray") / "demo" / "weights"))
    return frozenset(read_card(path).digest for path in folder.glob("*.safetensors"))


def is_demo(member: MemberSpec) -> bool:
    """Whether a member's weights are the demo's, wherever they were copied to."""
    return member.digest in demo_digests()


def member_notes(config: RunConfig) -> list[str]:
    """Why what the members of a resolved config say is no prediction; mostly empty."""
    notes = []
    if any(m.weights in ("random", "imagenet") for m in config.members):
        notes.append("untrained members: not a prediction")
    if any(is_demo(m) for m in config.members):
        notes.append("demo networks, fitted on synthetic slides: not for real slides")
    return notes


def overlay_notes(config: RunConfig) -> list[str]:
    """What a reader of an overlay must know."""
    return [*member_notes(config), "for research use only"]


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
        The slide's row of the OUTCOMES table.
    """
    slide_id = prepared.slide_id
    heatmap = stitch(prepared.grid(config.grid), chunks, config)
    with publish(run.heatmap(slide_id)) as path:
        write_heatmap(path, heatmap, name=slide_id)
    draw_slide(run, slide_id, heatmap, prepared, config)
    threshold = config.ensemble.threshold
    tissue = read_mask(run.mask(slide_id))
    outcome = measure_outcome(prepared, heatmap, tissue, threshold=threshold)
    outcome["seconds"] = seconds
    outcome["members"] = [member.name for member in config.members]
    record = {
        "outcome": outcome,
        "slide": prepared.row,
        "slide_mpp": prepared.slide_mpp,
        "mask_digest": prepared.mask_digest,
        "precision": config.compute.precision,
        "members": {m.name: m.digest or m.weights for m in config.members},
        "files": {"heatmap": file_digest(run.heatmap(slide_id))},
    }
    run.write_json(run.done(slide_id), record)
    return outcome


def draw_slide(
    run: RunDirectory,
    slide_id: str,
    heatmap: Heatmap,
    prepared: PreparedSlide,
    config: RunConfig,
) -> None:
    """Publish the slide's overlay."""
    with Image.open(run.thumbnail(slide_id)) as image:
        thumbnail = np.asarray(image.convert("RGB"))
    height, width = thumbnail.shape[:2]
    row = prepared.row
    mpp = (row["width"] * row["mpp_x"] / width, row["height"] * row["mpp_y"] / height)
    with publish(run.overlay(slide_id)) as path:
        write_overlay(
            path,
            thumbnail,
            heatmap,
            thumbnail_mpp=mpp,
            title=slide_id,
            notes=overlay_notes(config),
            threshold=config.ensemble.threshold,
        )
