"""Prepares a slide for training: tissue, patches, and an overlay for inspection.

:func:`sample_slide` runs once; :func:`read_samples` reuses its result when a fit is
restarted.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.annotations import Account
from digipath_ray.annotations.corrected import find_correction
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import to_tree
from digipath_ray.pipeline.prepare import THUMBNAIL_PX, find_slide_tissue
from digipath_ray.schema import SAMPLES
from digipath_ray.slide.open import Pixels, SlideError
from digipath_ray.storage.digest import content_digest
from digipath_ray.storage.files import json_digest, publish, read_table
from digipath_ray.tissue.find import Tissue, draw_tissue
from digipath_ray.tissue.mask import Mask
from digipath_ray.training.added import check_corrected, draw_added
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.inputs import ADDED, row_digests
from digipath_ray.training.reader import AnnotatedSlide, open_annotated
from digipath_ray.training.sampling import (
    draw_samples,
    find_candidates,
    kept_slides,
)
from digipath_ray.training.stains import note_stains

_SECTIONS = ("slide", "tissue", "grid", "annotations", "sampling")
NOTE = b"digipath_ray.sampled"
ACCOUNT, PX_MM2 = b"digipath_ray.annotation", b"digipath_ray.px_mm2"
"""Metadata of a slide's samples: what its annotation holds, mm2 of a level-0 px."""
TUMOR_COLOR = (255, 0, 200)


def sample_slide(row: SlideRow, recipe: Recipe, directory: FitDirectory) -> pa.Table:
    """Draw a slide's patches; writes the table and an overlay to the directory.

    Raises:
        SlideError: the slide or annotation cannot be read, or it has neither annotation
            nor negative label.
    """
    if not row.is_known and correction_of(row, recipe) is None:
        raise SlideError(
            "neither annotation nor negative label: its truth is unknown",
            "set column annotation or the label negative, or correct a region "
            "(--extra-annotations); otherwise remove the slide",
        )
    if row.annotation is not None and row.is_negative:
        raise SlideError(
            f"has an annotation, but the label {row.label}",
            "clear the wrong column",
        )
    # Before anything is read: what is replaced meanwhile is drawn on anew.
    digest = sample_digest(row, recipe)
    annotated = open_annotated(row, recipe)
    with annotated.slide as slide:
        check_corrected(row, annotated)
        thumbnail, tissue = find_slide_tissue(slide, recipe, row.mask)
        tumor = tumor_on(annotated, tissue.mask)
        table = SAMPLES.empty_table()
        if row.is_known:
            table = draw_own(row, annotated, tissue.mask, tumor, recipe)
        added = draw_added(row, annotated, tissue.mask, recipe)
        stains = note_stains(slide, tissue)
    with publish(directory.mask_overlay(row.slide_id)) as path:
        picture = draw_samples_on(
            thumbnail,
            tissue,
            tumor,
            pa.concat_tables([table, added]),
            annotated,
            recipe.sampling.fit_patch_px,
        )
        larger = max(1, THUMBNAIL_PX // 2 // max(picture.shape[:2]))
        picture = picture.repeat(larger, axis=0).repeat(larger, axis=1)
        Image.fromarray(picture).save(path, quality=85)
    directory.write_arrow(directory.added(row.slide_id), added)
    note = {NOTE: digest.encode(), **stains}
    if annotated.annotation is not None:
        mpp_x, mpp_y = slide.info.need_mpp()
        note[ACCOUNT] = annotated.annotation.account.to_json().encode()
        note[PX_MM2] = str(mpp_x * mpp_y / 1e6).encode()
    meta = {**(table.schema.metadata or {}), **note}
    table = table.replace_schema_metadata(meta)
    directory.write_arrow(directory.samples(row.slide_id), table)
    return table


def accounts_of(tables: Mapping[str, pa.Table]) -> dict[str, Account]:
    """What the annotations of sampled slides hold: slide_id -> account."""
    notes = {i: table.schema.metadata or {} for i, table in tables.items()}
    return {
        i: Account.from_json(note[ACCOUNT].decode())
        for i, note in notes.items()
        if ACCOUNT in note
    }


def annotation_rows(
    rows: Sequence[SlideRow], tables: Mapping[str, pa.Table]
) -> list[dict[str, Any]]:
    """Rows of ANNOTATIONS of the sampled slides that have one."""
    accounts, found = accounts_of(tables), []
    for row in rows:
        if row.slide_id not in accounts:
            continue
        account = accounts[row.slide_id]
        px_mm2 = float(tables[row.slide_id].schema.metadata[PX_MM2])
        area = {
            f"{meaning}_mm2": px_mm2
            * sum(u.area_px or 0.0 for u in account.of(meaning))
            for meaning in ("tumor", "hole", "ignored")
        }
        found.append(
            {
                "slide_id": row.slide_id,
                "annotation": row.annotation,
                "format": account.kind,
                "tumor_shapes": sum(use.shapes for use in account.of("tumor")),
                **area,
                "beyond": account.beyond,
                "classes": [
                    f"{u.meaning}: {u.shapes} x {u.name}" for u in account.classes
                ],
                "concerns": account.concerns,
            }
        )
    return found


def draw_own(
    row: SlideRow,
    annotated: AnnotatedSlide,
    tissue: Mask,
    tumor: NDArray[np.bool_],
    recipe: Recipe,
) -> pa.Table:
    """Draw SAMPLES over the whole slide, for training and validation."""
    return draw_samples(
        row.slide_id,
        find_candidates(tissue, tumor, normal=row.gives_normal),
        tissue,
        annotated.frame,
        partial(annotated.tumor_share, side=recipe.sampling.fit_patch_px),
        spec=recipe.sampling,
        rng=np.random.default_rng([recipe.fit.seed, zlib.crc32(row.slide_id.encode())]),
    )


def correction_of(row: SlideRow, recipe: Recipe) -> Path | None:
    """File of a slide's corrections, if any."""
    folder = recipe.sampling.extra_annotations
    return None if folder is None else find_correction(folder, row.slide_id)


def tumor_on(annotated: AnnotatedSlide, mask: Mask) -> NDArray[np.bool_]:
    """Px of a mask over the slide that contain any tumor."""
    rows, cols = mask.array.shape
    if annotated.annotation is None:
        return np.zeros((rows, cols), np.bool_)
    info = annotated.slide.info
    found = annotated.annotation.tumor_map(
        l0_per_px_x=info.width / cols, l0_per_px_y=info.height / rows
    )
    return found[:rows, :cols]


def draw_samples_on(
    thumbnail: Pixels,
    tissue: Tissue,
    tumor: NDArray[np.bool_],
    samples: pa.Table,
    annotated: AnnotatedSlide,
    side: int,
) -> Pixels:
    """Thumbnail with tissue, annotated tumor and patch centers."""
    info, (rows, cols) = annotated.slide.info, tissue.mask.array.shape
    frame = annotated.frame
    size = np.array([side * frame.l0_per_md_x, side * frame.l0_per_md_y])
    corner = np.stack([samples["x"].to_numpy(), samples["y"].to_numpy()], axis=1)
    scale = np.array([cols / info.width, rows / info.height])
    boxes = np.concatenate([corner * scale, (corner + size) * scale], axis=1)
    picture = draw_tissue(thumbnail, tissue, boxes=boxes)
    edge = tumor & tissue.mask.like(~tumor).dilated(tissue.mask.mpp_x * 1.5).array
    picture[edge] = TUMOR_COLOR
    return picture


def sample_digest(row: SlideRow, recipe: Recipe) -> str:
    """Digest of all inputs of a slide's samples: files by content, not by path."""
    tree = to_tree(recipe)
    sections = {k: dict(tree[k]) for k in _SECTIONS}
    if recipe.classes.names:  # a version that knew no classes drew the same without
        sections["classes"] = dict(tree["classes"])
    for name in ADDED:
        sections["sampling"].pop(name, None)
    hard = recipe.sampling.hard_examples
    correction = correction_of(row, recipe)
    kept = {
        **sections,
        "seed": recipe.fit.seed,
        "row": [row.mpp, row.label, row.exhaustive],
        "files": row_digests(row),
        "hard": None if hard is None else content_digest(hard),
        "correction": None if correction is None else content_digest(correction),
    }
    return json_digest(kept)


def read_samples(
    row: SlideRow, recipe: Recipe, directory: FitDirectory
) -> pa.Table | None:
    """Read the samples of an earlier start; None if any input has changed."""
    path = directory.samples(row.slide_id)
    if not (path.exists() and directory.added(row.slide_id).exists()):
        return None
    table = read_table(path)
    digest = (table.schema.metadata or {}).get(NOTE, b"").decode()
    return table if digest == sample_digest(row, recipe) else None


def fitted_samples(directory: FitDirectory, slide_ids: Sequence[str]) -> pa.Table:
    """Training samples: the slides' own plus the additional ones."""
    own, added = own_samples(directory, slide_ids), added_samples(directory, slide_ids)
    return pa.concat_tables([own, added])


def added_samples(directory: FitDirectory, slide_ids: Sequence[str]) -> pa.Table:
    """Additional samples: hard examples and corrections."""
    return kept_slides(directory.read_tables(directory.added, slide_ids))


def own_samples(directory: FitDirectory, slide_ids: Sequence[str]) -> pa.Table:
    """Validation and test samples: the slides' own only."""
    return kept_slides(directory.read_tables(directory.samples, slide_ids))
