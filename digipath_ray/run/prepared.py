"""A slide made ready: opened at its mpp, tissue found, patches placed.

:func:`prepare_slide` does it once and leaves the result in the run directory, where
:func:`read_prepared` finds it when the run is started again.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from digipath_ray.cohort.read import SlideRow
from digipath_ray.config.run import GridSpec, RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.geometry import Frame
from digipath_ray.patches import (
    Cells,
    Grid,
    cut_chunks,
)
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.slidetable import manifest_record
from digipath_ray.storage.cache import local_copy, object_version
from digipath_ray.storage.files import file_digest, is_url, open_file, read_table


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
    mask_digest: str | None
    """Sha256 of the tissue mask that the manifest gives."""
    version: str | None = None
    """Of a slide in a bucket, the one that its patches were placed on."""

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


def count_chunks(patches: int, config: RunConfig) -> int:
    """Chunks that so many patches are read in."""
    return -(-patches // config.compute.chunk_cells)


def digest_mask(row: SlideRow) -> str | None:
    """Sha256 of the tissue mask given for a slide; None without one."""
    if row.mask is None:
        return None
    with local_copy(row.mask) as copy:
        return file_digest(copy.path)


def prepare_digest(config: RunConfig) -> str:
    """Digest of all that decides where a slide's patches lie."""
    tree = to_tree(config)
    kept = {k: tree.get(k) for k in ("slide", "tissue", "grid")}
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
    with open_file(path) as file:
        note = json.loads(pq.read_schema(file).metadata[b"digipath_ray.slide"])
    before = (note["row"]["path"], note["slide_mpp"], note["config"])
    if before != (row.path, row.mpp, prepare_digest(config)):
        return None
    if note["mask_digest"] != digest_mask(row):
        return None
    if is_url(row.path) and note.get("version") != object_version(row.path):
        return None
    chunks = count_chunks(note["row"]["patches"], config)
    return PreparedSlide(
        row={**note["row"], **manifest_record(row), "chunks": chunks},
        frame=Frame(**note["frame"]),
        md_width=note["md_width"],
        md_height=note["md_height"],
        slide_mpp=note["slide_mpp"],
        mask_digest=note["mask_digest"],
        version=note.get("version"),
    )


def read_chunks(run: RunDirectory, slide_id: str, config: RunConfig) -> list[Cells]:
    """A prepared slide's chunks, cells [n, 2] each."""
    table = read_table(run.patches(slide_id), columns=["row", "col"])
    cells = np.stack([table["row"].to_numpy(), table["col"].to_numpy()], axis=1)
    return cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
