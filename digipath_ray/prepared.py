"""A slide made ready: opened at its mpp, tissue found, patches placed.

:func:`prepare_slide` does it once and leaves the result in the run directory, where
:func:`read_prepared` finds it when the run is started again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.cohort import SlideRow
from digipath_ray.config import GridSpec, RunConfig
from digipath_ray.geometry import Frame, NoLevelFineEnough, model_frame
from digipath_ray.mask import read_mask_image, write_mask
from digipath_ray.patches import (
    Cells,
    Grid,
    cut_chunks,
    keep_cells,
    lay_grid,
    patch_boxes,
    patch_table,
)
from digipath_ray.rundir import RunDirectory, publish
from digipath_ray.settings import to_tree
from digipath_ray.slide import Pixels, Slide, SlideError, open_slide
from digipath_ray.tissue import Tissue, draw_tissue, find_tissue, tissue_from_mask

THUMBNAIL_PX = 1400
"""Longer side of the thumbnail that overlays are drawn on."""
MPP_FLAG = 0.03
"""Relative deviation of the effective mpp from which a slide is flagged."""
HEATMAP_MEMORY_SHARE = 0.25
"""Share of a machine's memory that one slide's heatmap may take."""


@dataclass(frozen=True, kw_only=True)
class PreparedSlide:
    """What is known of a slide once its patches are placed."""

    row: dict[str, Any]
    """Its row of the SLIDES table."""
    frame: Frame
    md_width: int
    md_height: int
    slide_mpp: float | None
    """The manifest's mpp, which overrides the file's."""

    @property
    def slide_id(self) -> str:
        """The slide's name in the cohort."""
        return str(self.row["slide_id"])

    def grid(self, spec: GridSpec) -> Grid:
        """The slide's grid."""
        return Grid(
            spec=spec,
            frame=self.frame,
            md_width=self.md_width,
            md_height=self.md_height,
        )


def open_cohort_slide(path: str, slide_mpp: float | None, config: RunConfig) -> Slide:
    """Open a slide with the mpp of the manifest, else the file's, else the config's."""
    slide = open_slide(path, mpp=slide_mpp)
    info = slide.info
    if info.mpp_source == "given":
        slide.info = replace(info, mpp_source="manifest")
    elif info.mpp_x is None and config.slide.slide_mpp is not None:
        assumed = config.slide.slide_mpp
        slide.info = replace(
            info, mpp_x=assumed, mpp_y=assumed, mpp_source="assumed (slide_mpp)"
        )
    return slide


def grid_of(slide: Slide, config: RunConfig) -> Grid:
    """The grid over an open slide.

    Raises:
        SlideError: no mpp, or no level fine enough.
    """
    mpp_x, mpp_y = slide.info.need_mpp()
    try:
        frame = model_frame(
            level_downsamples=slide.info.level_downsamples,
            mpp_x=mpp_x,
            mpp_y=mpp_y,
            mpp=config.grid.mpp,
            allow_upsampling=config.slide.allow_upsampling,
        )
    except NoLevelFineEnough as e:
        message, _, hint = str(e).partition(": ")
        raise SlideError(message, hint) from e
    return lay_grid(slide.info, frame, config.grid)


def find_slide_tissue(
    slide: Slide, config: RunConfig, mask_path: str | None = None
) -> tuple[Pixels, Tissue]:
    """The slide's thumbnail at the mask's mpp, and its tissue."""
    thumbnail, mpp_x, mpp_y = slide.thumbnail(config.tissue.mask_mpp)
    spec = config.tissue
    if mask_path is None:
        return thumbnail, find_tissue(thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=spec)
    given = read_mask_image(Path(mask_path))
    return thumbnail, tissue_from_mask(
        given, thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=spec
    )


def check_heatmap_size(grid: Grid, channels: int) -> None:
    """Refuse a heatmap that would not fit in memory.

    Raises:
        SlideError: with the downsample that would fit.
    """
    need = grid.hm_width * grid.hm_height * 4 * (channels + 1)
    limit = psutil.virtual_memory().total * HEATMAP_MEMORY_SHARE
    if need > limit:
        raise SlideError(
            f"a heatmap of {grid.hm_width}x{grid.hm_height} px needs "
            f"{need / 2**30:.1f} GB, more than a quarter of this machine's memory",
            f"raise --downsample above {grid.spec.downsample}",
        )


def prepare_slide(row: SlideRow, config: RunConfig, run: RunDirectory) -> PreparedSlide:
    """Find a slide's tissue, place its patches, and write both to the run directory.

    Raises:
        SlideError: the slide cannot be used, or shows no tissue.
    """
    with open_cohort_slide(row.path, row.mpp, config) as slide:
        grid = grid_of(slide, config)
        check_heatmap_size(grid, len(config.channels))
        thumbnail, tissue = find_slide_tissue(slide, config, row.mask)
        cells = keep_cells(grid, tissue.sampling)
        chunks = cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
        boxes = patch_boxes(grid, cells, tissue.mask)
        write_masks(run, row.slide_id, slide, thumbnail, tissue, boxes)
        if len(cells) == 0:
            raise SlideError(
                f"no tissue of at least {config.tissue.min_tissue_mm2} mm2 found",
                f"look at masks/{row.slide_id}_overlay.jpg; lower --min-saturation "
                "or --min-tissue-mm2, give a mask in the manifest, or --tissue all",
            )
        prepared = PreparedSlide(
            row=slide_record(row, slide, grid, tissue, chunks),
            frame=grid.frame,
            md_width=grid.md_width,
            md_height=grid.md_height,
            slide_mpp=row.mpp,
        )
    write_patches(
        run, prepared, config, patch_table(row.slide_id, grid, chunks, tissue.mask)
    )
    return prepared


def slide_record(
    row: SlideRow, slide: Slide, grid: Grid, tissue: Tissue, chunks: Sequence[Cells]
) -> dict[str, Any]:
    """A slide's row of the SLIDES table."""
    info, frame, quality = slide.info, grid.frame, tissue.quality
    mpp_x, mpp_y = info.need_mpp()
    deviation = max(abs(m / grid.spec.mpp - 1) for m in (frame.mpp_x, frame.mpp_y))
    flags = list(quality.flags)
    if deviation > MPP_FLAG:
        flags.append("mpp deviation")
    if info.file_mpp is not None and abs(mpp_x / info.file_mpp - 1) > MPP_FLAG:
        flags.append("mpp differs from file")
    if frame.upsampled:
        flags.append("upsampled")
    return {
        "slide_id": row.slide_id,
        "path": row.path,
        "patient_id": row.patient_id,
        "node": row.node,
        "label": row.label,
        "split": row.split,
        "annotation": row.annotation,
        "exhaustive": row.exhaustive,
        "width": info.width,
        "height": info.height,
        "mpp_x": mpp_x,
        "mpp_y": mpp_y,
        "mpp_source": info.mpp_source,
        "level_downsamples": list(info.level_downsamples),
        "level": frame.level,
        "effective_mpp_x": frame.mpp_x,
        "effective_mpp_y": frame.mpp_y,
        "upsampled": frame.upsampled,
        "patches": sum(len(c) for c in chunks),
        "chunks": len(chunks),
        "tissue_mm2": quality.tissue_mm2,
        "ink": quality.ink,
        "ink_over_tissue": quality.ink_over_tissue,
        "blur": quality.blur,
        "black": quality.black,
        "blank": quality.blank,
        "mpp_deviation": deviation,
        "qc": flags,
    }


def write_masks(
    run: RunDirectory,
    slide_id: str,
    slide: Slide,
    thumbnail: Pixels,
    tissue: Tissue,
    boxes: NDArray[np.float64],
) -> None:
    """Publish the thumbnail, the tissue mask and the overlay a person can check."""
    with publish(run.thumbnail(slide_id)) as path:
        Image.fromarray(overview(slide, thumbnail)).save(path, quality=90)
    with publish(run.mask(slide_id)) as path:
        write_mask(path, tissue.mask)
    with publish(run.mask_overlay(slide_id)) as path:
        drawn = draw_tissue(thumbnail, tissue, boxes=boxes)
        larger = max(1, THUMBNAIL_PX // 2 // max(drawn.shape[:2]))
        drawn = drawn.repeat(larger, axis=0).repeat(larger, axis=1)
        Image.fromarray(drawn).save(path, quality=85)


def overview(slide: Slide, thumbnail: Pixels) -> Pixels:
    """The slide at the scale overlays are drawn on; read again if that is finer."""
    side = max(thumbnail.shape[:2])
    if side >= THUMBNAIL_PX:
        image = Image.fromarray(thumbnail)
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        return np.asarray(image)
    info = slide.info
    mpp_x, mpp_y = info.need_mpp()
    longer_um = max(info.width * mpp_x, info.height * mpp_y)
    return slide.thumbnail(max(longer_um / THUMBNAIL_PX, mpp_x, mpp_y))[0]


def prepare_digest(config: RunConfig) -> str:
    """Digest of all that decides where a slide's patches lie."""
    tree = to_tree(config)
    tree["chunk_cells"] = tree["compute"]["chunk_cells"]
    kept = {k: tree.get(k) for k in ("slide", "tissue", "grid", "chunk_cells")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def write_patches(
    run: RunDirectory, prepared: PreparedSlide, config: RunConfig, table: pa.Table
) -> None:
    """Publish the patch table, with all of the prepared slide in its metadata."""
    note = json.dumps({**asdict(prepared), "config": prepare_digest(config)})
    meta = {**(table.schema.metadata or {}), b"digipath_ray.slide": note.encode()}
    run.write_arrow(run.patches(prepared.slide_id), table.replace_schema_metadata(meta))


def read_prepared(
    run: RunDirectory, row: SlideRow, config: RunConfig
) -> PreparedSlide | None:
    """The slide as an earlier start prepared it, or None if anything has changed."""
    slide_id = row.slide_id
    path = run.patches(slide_id)
    if not all(p.exists() for p in (path, run.mask(slide_id), run.thumbnail(slide_id))):
        return None
    note = json.loads(pq.read_schema(path).metadata[b"digipath_ray.slide"])
    same = note["config"] == prepare_digest(config)
    same = same and note["row"]["path"] == row.path and note["slide_mpp"] == row.mpp
    if not same:
        return None
    return PreparedSlide(
        row={**note["row"], "patient_id": row.patient_id},
        frame=Frame(**note["frame"]),
        md_width=note["md_width"],
        md_height=note["md_height"],
        slide_mpp=note["slide_mpp"],
    )


def read_chunks(run: RunDirectory, slide_id: str) -> list[Cells]:
    """A prepared slide's chunks, cells [n, 2] each."""
    table = pq.read_table(run.patches(slide_id), columns=["chunk", "row", "col"])
    chunk, row, col = (table[c].to_numpy() for c in ("chunk", "row", "col"))
    cells = np.stack([row, col], axis=1)
    return np.split(cells, np.flatnonzero(np.diff(chunk)) + 1)
