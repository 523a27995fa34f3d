"""Hard examples on disk: output of mining, input of a fit."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from digipath_ray.schema import SAMPLES
from digipath_ray.storage.files import publish, read_table

NOTE = b"digipath_ray.hard"
"""Table metadata key of the patch size."""


def write_hard(path: Path, table: pa.Table, *, fit_patch_px: int, mpp: float) -> None:
    """Write hard patches as Parquet, their side and um per model px as metadata."""
    note = {NOTE: json.dumps({"fit_patch_px": fit_patch_px, "mpp": mpp}).encode()}
    meta = {**(table.schema.metadata or {}), **note}
    with publish(path) as temporary:
        pq.write_table(table.replace_schema_metadata(meta), temporary)


def read_hard(path: Path) -> tuple[pa.Table, Mapping[str, float]]:
    """Read a table of :func:`write_hard`, and its metadata, if any.

    Raises:
        ValueError: the file does not exist, or is not a table of samples.
        OSError: the file or bucket cannot be read.
    """
    try:
        table = read_table(path)
    except FileNotFoundError as e:
        raise ValueError(f"hard examples {path}: file not found") from e
    except (pa.ArrowException, IsADirectoryError) as e:
        raise ValueError(f"hard examples {path}: not a Parquet file: {e}") from e
    note = (table.schema.metadata or {}).get(NOTE, b"{}")
    try:
        return table.select(SAMPLES.names).cast(SAMPLES), json.loads(note)
    except (KeyError, ValueError, pa.ArrowException, RecursionError) as e:
        raise ValueError(
            f"hard examples {path}: not a file of digipath mine --out: {e}"
        ) from e
