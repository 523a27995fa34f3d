"""Writes a slide's patch table and record; reuses them if nothing has changed."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.patches import Cells, cut_chunks
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.identity import digest_mask, look_at
from digipath_ray.run.record import SlideRecord
from digipath_ray.schema import PATCHES, SLIDES, check_row
from digipath_ray.storage.digest import describe_change
from digipath_ray.storage.files import json_digest, read_conformed, read_note

log = logging.getLogger(__name__)

NOTE = b"digipath_ray.slide"
"""Key of the slide's record in the metadata of its patch table."""


def count_chunks(patches: int, config: RunConfig) -> int:
    """Chunks that so many patches are read in."""
    return -(-patches // config.compute.chunk_cells)


def prepare_digest(config: RunConfig) -> str:
    """Digest of all that decides where a slide's patches lie."""
    tree = to_tree(config)
    # As older versions had it, where artifacts are not looked for.
    sought = ("artifacts",) if config.artifacts.find else ()
    kept = {k: tree[k] for k in ("slide", "tissue", *sought, "grid")}
    # Older versions knew no stains: what they prepared is as good for a run without.
    if kept["slide"].pop("stain") != "none":
        kept["stain"] = config.slide.stain
        kept["references"] = [m.stain_reference for m in config.members]
    return json_digest(kept)


def write_patches(
    run: RunDirectory, record: SlideRecord, config: RunConfig, table: pa.Table
) -> None:
    """Publish the patch table, with all of the slide's record in its metadata."""
    note = {
        "row": record.to_row(),
        "slide_mpp": record.mpp,
        "mask_digest": record.mask_digest,
        "version": record.version,
        "config": prepare_digest(config),
    }
    meta = {**(table.schema.metadata or {}), NOTE: json.dumps(note).encode()}
    run.write_arrow(run.patches(record.slide_id), table.replace_schema_metadata(meta))


def read_prepared(
    run: RunDirectory, row: SlideRow, config: RunConfig
) -> SlideRecord | None:
    """The slide as an earlier start prepared it, or None if anything has changed."""
    slide_id = row.slide_id
    path = run.patches(slide_id)
    made = [path, run.mask(slide_id), run.thumbnail(slide_id)]
    if config.artifacts.find:
        made += [run.artifacts(slide_id), run.artifact_outlines(slide_id)]
    if not all(p.exists() for p in made):
        return None
    try:
        note = _read_note(path)
    except ValueError as e:
        log.warning("%s: prepared anew: %s", slide_id, e)
        return None
    if (note["slide_mpp"], note["config"]) != (row.mpp, prepare_digest(config)):
        return None
    # Of a version that kept no canvas, or no digest.
    if note["row"].get("canvas_width") is None or note["row"].get("digest") is None:
        return None
    if note["mask_digest"] != digest_mask(row):
        return None
    record = SlideRecord.from_row(
        note["row"],
        mpp=row.mpp,
        mask_digest=note["mask_digest"],
        version=note.get("version"),
    )
    now = look_at(row.path, record)
    if now.digest != record.digest:
        if now.digest is not None and record.digest is not None:
            change = describe_change(record.digest, now.digest)
            log.warning("%s: prepared anew, as it was replaced: %s", slide_id, change)
        return None
    # Of this start: the manifest may describe the slide better, chunks may be larger.
    chunks = count_chunks(record.patches, config)
    return replace(record, **row.columns(), version=now.version, chunks=chunks)


def _read_note(path: Path) -> dict[str, Any]:
    """What :func:`write_patches` wrote of the slide.

    Raises:
        ValueError: the table is damaged, or its note is of another form.
    """
    note = read_note(path, NOTE)
    try:
        check_row(note["row"], SLIDES)
        SlideRecord.from_row(note["row"], mpp=note["slide_mpp"])
        _ = note["mask_digest"], note["config"]
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise ValueError(f"{path}: its note of the slide is damaged: {e!r}") from e
    found: dict[str, Any] = note
    return found


def read_chunks(run: RunDirectory, slide_id: str, config: RunConfig) -> list[Cells]:
    """A prepared slide's chunks, cells [n, 2] each."""
    table = read_conformed(run.patches(slide_id), PATCHES, ["row", "col"])
    cells = np.stack([table["row"].to_numpy(), table["col"].to_numpy()], axis=1)
    return cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
