"""Hard examples on disk: what mining leaves, and a fit takes."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from digipath_ray.schema import SAMPLES
from digipath_ray.storage.files import publish, read_table

NOTE = b"digipath_ray.hard"
"""What the metadata of the table says of the patches' size."""


def write_hard(path: Path, table: pa.Table, *, fit_patch_px: int, mpp: float) -> None:
    """Write hard patches as Parquet, noting their side and the um per model px."""
    note = {NOTE: json.dumps({"fit_patch_px": fit_patch_px, "mpp": mpp}).encode()}
    meta = {**(table.schema.metadata or {}), **note}
    with publish(path) as temporary:
        pq.write_table(table.replace_schema_metadata(meta), temporary)


def read_hard(path: Path) -> tuple[pa.Table, Mapping[str, float]]:
    """The table of :func:`write_hard`, and what is noted in it, if anything.

    Raises:
        ValueError: no such file, or not a table of samples.
        OSError: as :func:`digipath_ray.storage.files.read_table`.
    """
    try:
        table = read_table(path)
    except FileNotFoundError as e:
        raise ValueError(f"hard examples {path}: no such file") from e
    except (pa.ArrowException, IsADirectoryError) as e:
        raise ValueError(f"hard examples {path}: not a Parquet file: {e}") from e
    note = (table.schema.metadata or {}).get(NOTE, b"{}")
    try:
        return table.select(SAMPLES.names).cast(SAMPLES), json.loads(note)
    except (KeyError, ValueError) as e:
        raise ValueError(
            f"hard examples {path}: not as digipath mine --out writes them: {e}"
        ) from e
