"""One slide made ready: opened at its mpp, its tissue found, its patches placed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.artifacts.kinds import ArtifactMap, flags
from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.run import RunConfig
from digipath_ray.geometry import NoLevelFineEnough, model_frame
from digipath_ray.machine import memory_bytes
from digipath_ray.networks.seen_slides import Exposure, read_exposure
from digipath_ray.outcome.artifact_files import write_artifact_files
from digipath_ray.patches import Grid, lay_grid, patch_boxes, patch_table
from digipath_ray.pipeline.place import look_for_artifacts, no_patches, place_patches
from digipath_ray.pipeline.stains import FLAG as STAIN_FLAG
from digipath_ray.pipeline.stains import find_stains
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.identity import check_same, digest_mask
from digipath_ray.run.patch_table import count_chunks, write_patches
from digipath_ray.run.record import SlideRecord, canvas_columns
from digipath_ray.slide.frames import mask_origin
from digipath_ray.slide.light import check_brightfield
from digipath_ray.slide.open import (
    TILE_CACHE_BYTES,
    Pixels,
    Slide,
    SlideError,
    SlideInfo,
    open_slide,
)
from digipath_ray.storage.cache import local_copy
from digipath_ray.storage.digest import slide_digest
from digipath_ray.storage.files import is_url, publish
from digipath_ray.tissue.find import (
    ASPECT_TOLERANCE,
    Tissue,
    draw_tissue,
    find_tissue,
    tissue_from_mask,
)
from digipath_ray.tissue.mask import read_mask_image, write_mask
from digipath_ray.tissue.quality import Quality

THUMBNAIL_PX = 1400
"""Longer side of the thumbnail that overlays are drawn on."""
MPP_FLAG = 0.03
"""Relative deviation of the effective mpp from which a slide is flagged."""
STITCH_COPIES = 3
"""Times that a heatmap's bytes are in memory while it is finished: 2.7 as measured at
100,000 px (tests/benchmarks/finishing.py), with the sums that come in."""
STITCH_MEMORY_SHARE = 0.5
"""Share of a machine's memory that all slides being stitched may take."""


def open_cohort_slide(
    path: str,
    slide_mpp: float | None,
    config: RunConfig | Recipe,
    *,
    cache_bytes: int = TILE_CACHE_BYTES,
    version: str | None = None,
    digest: str | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> Slide:
    """Open a slide with the mpp of the manifest, else the file's, else the config's.

    Args:
        path: file of the slide.
        slide_mpp: um per level-0 px that overrides the file's.
        config: what to assume of a file that states none.
        cache_bytes: as for :func:`digipath_ray.slide.open.open_slide`.
        version: as there.
        digest: of the slide on a disk that it must be.
        on_progress: as for open_slide.

    Raises:
        SlideError: as open_slide; or it was replaced by another.
        OSError: as open_slide.
    """
    if digest is not None and not is_url(path):
        check_same(path, digest, since="its patches were placed")
    slide = open_slide(
        path,
        mpp=slide_mpp,
        cache_bytes=cache_bytes,
        version=version,
        on_progress=on_progress,
    )
    info = slide.info
    if info.mpp_source == "given":
        slide.info = replace(info, mpp_source="manifest")
    elif info.mpp_x is None and config.slide.slide_mpp is not None:
        assumed = config.slide.slide_mpp
        slide.info = replace(
            info, mpp_x=assumed, mpp_y=assumed, mpp_source="assumed (slide_mpp)"
        )
    return slide


def digest_slide(
    path: str, *, on_progress: Callable[[], None] = lambda: None
) -> str | None:
    """Digest of a slide's files, of one in a bucket by its copy on this node.

    None if they cannot be read: opening the slide says why.
    """
    try:
        with local_copy(path, on_progress=on_progress) as copy:
            return slide_digest(copy.path)
    except OSError:
        return None


def grid_of(slide: Slide, config: RunConfig | Recipe) -> Grid:
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
    slide: Slide, config: RunConfig | Recipe, mask_path: str | None = None
) -> tuple[Pixels, Tissue]:
    """The slide's thumbnail at the mask's mpp, and its tissue.

    Raises:
        SlideError: the slide or the mask given for it cannot be read, or the slide is
            not brightfield.
    """
    thumbnail, mpp_x, mpp_y = slide.thumbnail(config.tissue.mask_mpp)
    spec = config.tissue
    check_brightfield(thumbnail)
    if mask_path is None:
        return thumbnail, find_tissue(thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=spec)
    try:
        with local_copy(mask_path) as copy:
            given = crop_to_slide(read_mask_image(copy.path), slide.info)
        tissue = tissue_from_mask(given, thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=spec)
    except SlideError as e:
        raise SlideError(f"its tissue mask cannot be used: {e}", e.hint) from e
    except ValueError as e:
        raise SlideError(
            f"its tissue mask cannot be used: {e}",
            "mend the column mask of the manifest, or leave it empty",
        ) from e
    return thumbnail, tissue


def crop_to_slide(mask: NDArray[np.bool_], info: SlideInfo) -> NDArray[np.bool_]:
    """The part of a mask [rows, cols] that covers the slide, to the nearest mask px.

    Raises:
        SlideError: the mask may cover the slide or its canvas.
    """
    canvas, (height, width) = info.canvas, mask.shape
    if canvas is None:
        return mask
    bounds = (info.width, info.height)
    covers = mask_origin((width, height), bounds, canvas, tolerance=ASPECT_TOLERANCE)
    if covers != "canvas":
        return mask
    x, y = width / canvas.width, height / canvas.height
    left, right = round(canvas.offset_x * x), round((canvas.offset_x + info.width) * x)
    top, bottom = round(canvas.offset_y * y), round((canvas.offset_y + info.height) * y)
    return mask[top : max(bottom, top + 1), left : max(right, left + 1)]


def stitch_bytes(grid: Grid, config: RunConfig) -> int:
    """Memory that stitching a slide takes: its sums, their means and the file."""
    channels = len(config.channels) + 1
    return STITCH_COPIES * grid.hm_width * grid.hm_height * 4 * channels


def check_heatmap_size(grid: Grid, config: RunConfig) -> None:
    """Refuse a heatmap that would not fit in memory beside the others in flight.

    Raises:
        SlideError: saying to raise the downsample.
    """
    need = stitch_bytes(grid, config) * config.compute.finishers
    limit = memory_bytes() * STITCH_MEMORY_SHARE
    if need > limit:
        raise SlideError(
            f"stitching heatmaps of {grid.hm_width}x{grid.hm_height} px needs "
            f"{need / 2**30:.1f} GB, more than half of this machine's memory",
            f"raise --downsample above {grid.spec.downsample}, or lower --finishers",
        )


def prepare_slide(
    row: SlideRow,
    config: RunConfig,
    run: RunDirectory,
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> SlideRecord:
    """Find a slide's tissue, place its patches, and write both to the run directory.

    Args:
        row: the slide.
        config: what to do.
        run: where to.
        on_progress: called whenever a strip of the slide has been read.

    Raises:
        SlideError: the slide cannot be used, shows no tissue, or none that is left.
    """
    # Before it is opened: what replaces it in between is seen when it is read.
    digest = digest_slide(row.path, on_progress=on_progress)
    opened = open_cohort_slide(row.path, row.mpp, config, on_progress=on_progress)
    with opened as slide:
        slide.on_progress = on_progress
        grid = grid_of(slide, config)
        check_heatmap_size(grid, config)
        thumbnail, tissue = find_slide_tissue(slide, config, row.mask)
        found = look_for_artifacts(slide, thumbnail, tissue, config)
        cells = place_patches(grid, tissue, found, config)
        boxes = patch_boxes(grid, cells, tissue.mask)
        write_masks(run, row.slide_id, slide, thumbnail, tissue, boxes)
        if found is not None:
            write_artifact_files(run, row.slide_id, found, slide.info)
        if len(cells) == 0:
            overlay = f"masks/{row.slide_id}_overlay.jpg"
            raise no_patches(config, tissue, found, overlay)
        record = describe_slide(
            row, slide, grid, tissue, patches=len(cells), config=config
        )
        stains = find_stains(slide, tissue, config)
        if stains is not None:
            left = () if stains.note is None else (STAIN_FLAG,)
            record = replace(record, **stains.columns(), qc=(*record.qc, *left))
        record = with_artifacts(replace(record, digest=digest), tissue, found)
    table = patch_table(row.slide_id, grid, cells, tissue.mask)
    write_patches(run, record, config, table)
    return record


def describe_slide(
    row: SlideRow,
    slide: Slide,
    grid: Grid,
    tissue: Tissue,
    *,
    patches: int,
    config: RunConfig,
) -> SlideRecord:
    """What the manifest, the slide's file, its tissue and its grid say of it."""
    info, frame, quality = slide.info, grid.frame, tissue.quality
    mpp_x, mpp_y = info.need_mpp()
    return SlideRecord(
        **row.columns(),
        width=info.width,
        height=info.height,
        **canvas_columns(info),
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=info.mpp_source,
        level_downsamples=tuple(info.level_downsamples),
        level=frame.level,
        effective_mpp_x=frame.mpp_x,
        effective_mpp_y=frame.mpp_y,
        upsampled=frame.upsampled,
        patches=patches,
        chunks=count_chunks(patches, config),
        tissue_mm2=quality.tissue_mm2,
        ink=quality.ink,
        ink_over_tissue=quality.ink_over_tissue,
        blur=quality.blur,
        black=quality.black,
        blank=quality.blank,
        mpp_deviation=mpp_deviation(grid),
        qc=tuple(slide_flags(info, grid, quality)),
        mask_digest=digest_mask(row),
        version=slide.version,
        reader=slide.reader(frame.level),
    )


def with_artifacts(
    record: SlideRecord, tissue: Tissue, found: ArtifactMap | None
) -> SlideRecord:
    """The record with each kind's share of the tissue, and the flags they raise."""
    if found is None:
        return record
    shares = found.shares(tissue.mask)
    columns: dict[str, Any] = {f"artifact_{kind}": s for kind, s in shares.items()}
    return replace(record, **columns, qc=(*record.qc, *flags(shares)))


def slide_flags(info: SlideInfo, grid: Grid, quality: Quality) -> list[str]:
    """Names of all that a person should look at before they trust the slide."""
    raised = {
        "mpp deviation": mpp_deviation(grid) > MPP_FLAG,
        "mpp differs from file": differs_from_file(info),
        "upsampled": grid.frame.upsampled,
    }
    of_file = dict.fromkeys(note.flag for note in info.notes if note.flag)
    return [*quality.flags, *(name for name, up in raised.items() if up), *of_file]


def mpp_deviation(grid: Grid) -> float:
    """How far the effective mpp is from the one asked for, as a fraction of that."""
    effective = (grid.frame.mpp_x, grid.frame.mpp_y)
    return max(abs(m / grid.spec.mpp - 1) for m in effective)


def differs_from_file(info: SlideInfo) -> bool:
    """Whether an mpp that was given contradicts the file's."""
    if info.mpp_x is None or info.file_mpp is None:
        return False
    return abs(info.mpp_x / info.file_mpp - 1) > MPP_FLAG


def mark_seen(slide: SlideRecord, exposure: Exposure) -> SlideRecord:
    """The slide with the members that have seen it or its patient."""
    seen = exposure.seen_by(slide.slide_id, slide.patient_id, slide.digest)
    return replace(slide, seen_by=tuple(seen))


def marker_of(config: RunConfig) -> Callable[[SlideRecord], SlideRecord]:
    """Says of a slide which members have seen it; as it was if no card is there."""
    exposure = read_exposure(config.members)
    if not exposure.cards:
        return lambda slide: slide
    return lambda slide: mark_seen(slide, exposure)


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
