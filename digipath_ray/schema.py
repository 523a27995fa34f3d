"""The pyarrow schema of every table a run writes, with the unit in each field."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

VERSION = 1


def column(name: str, kind: pa.DataType, doc: str, *, null: bool = False) -> pa.Field:
    """A column with its meaning and unit; ``null``: it may be unknown."""
    return pa.field(name, kind, nullable=null, metadata={"doc": doc})


def table(*columns: pa.Field) -> pa.Schema:
    """The schema of a table of this version."""
    return pa.schema(columns, metadata={"digipath_ray.schema": str(VERSION)})


ARTIFACTS = ("blur", "fold", "bubble", "pen", "blot")
"""Kinds of artifacts; what they are is in :mod:`digipath_ray.artifacts.kinds`."""
_SHARES = tuple(
    column(
        f"artifact_{kind}",
        pa.float64(),
        "such part of the tissue, fraction; null: was not looked for",
        null=True,
    )
    for kind in ARTIFACTS
)

SLIDES = table(
    column("slide_id", pa.string(), "unique in the cohort"),
    column("path", pa.string(), "file of the slide"),
    column("patient_id", pa.string(), "patient the slide belongs to", null=True),
    column("node", pa.string(), "lymph node of the patient", null=True),
    column("label", pa.string(), "reference metastasis type", null=True),
    column("split", pa.string(), "train, validation or test", null=True),
    column("annotation", pa.string(), "file of the reference annotation", null=True),
    column("exhaustive", pa.bool_(), "all tumor is annotated", null=True),
    column("mask", pa.string(), "file of the tissue mask given", null=True),
    column("width", pa.int64(), "px at level 0"),
    column("height", pa.int64(), "px at level 0"),
    column("offset_x", pa.int64(), "of (0, 0) in the canvas, level-0 px", null=True),
    column("offset_y", pa.int64(), "of (0, 0) in the canvas, level-0 px", null=True),
    column("canvas_width", pa.int64(), "of the scanner's canvas, px", null=True),
    column("canvas_height", pa.int64(), "of the scanner's canvas, px", null=True),
    column("mpp_x", pa.float64(), "um per px at level 0"),
    column("mpp_y", pa.float64(), "um per px at level 0"),
    column("mpp_source", pa.string(), "where mpp came from"),
    column("level_downsamples", pa.list_(pa.float64()), "level-0 px per level px"),
    column("level", pa.int64(), "level that is read"),
    column("effective_mpp_x", pa.float64(), "um per model px"),
    column("effective_mpp_y", pa.float64(), "um per model px"),
    column("upsampled", pa.bool_(), "no level was fine enough"),
    column("patches", pa.int64(), "patches placed"),
    column("chunks", pa.int64(), "chunks they are read in"),
    column("tissue_mm2", pa.float64(), "area of the tissue mask, mm2"),
    column("ink", pa.float64(), "drawn ink, fraction of the slide"),
    column("ink_over_tissue", pa.float64(), "ink touching tissue, fraction of tissue"),
    column("blur", pa.float64(), "blurred part of the tissue, fraction"),
    column("black", pa.float64(), "black part of the slide, fraction"),
    column("blank", pa.float64(), "white part of the slide, fraction"),
    column("mpp_deviation", pa.float64(), "relative, effective against asked-for mpp"),
    column("qc", pa.list_(pa.string()), "quality flags raised"),
    column(
        "seen_by",
        pa.list_(pa.string()),
        "members fitted on it or its patient",
        null=True,
    ),
    column("digest", pa.string(), "of the slide's files, as BYTES-HEX", null=True),
    column("reader", pa.string(), "what decodes the level that is read", null=True),
    column("stain", pa.string(), "how its stains were estimated", null=True),
    column(
        "stain_values",
        pa.list_(pa.float64()),
        "macenko: density of hematoxylin in R, G, B, of the other stain, 99th "
        "percentile of each; reinhard: means and deviations of l, alpha, beta",
        null=True,
    ),
    column("stain_note", pa.string(), "why they were left as they are", null=True),
    *_SHARES,
)

PATCHES = table(
    column("slide_id", pa.string(), "the slide"),
    column("row", pa.int32(), "grid cell"),
    column("col", pa.int32(), "grid cell"),
    column(
        "x",
        pa.int64(),
        "top-left corner, px at level 0; add the slide's offset_x for the canvas",
    ),
    column(
        "y",
        pa.int64(),
        "top-left corner, px at level 0; add the slide's offset_y for the canvas",
    ),
    column("level", pa.int32(), "level that is read"),
    column("read_px", pa.int32(), "side of the patch in px of that level"),
    column("mpp_x", pa.float64(), "effective um per model px"),
    column("mpp_y", pa.float64(), "effective um per model px"),
    column("tissue", pa.float32(), "fraction of the patch that is tissue"),
)

SHARDS = table(
    column("slide_id", pa.string(), "the slide"),
    column("path", pa.string(), "file of the slide"),
    column("slide_mpp", pa.float64(), "um/px of level 0 to assume", null=True),
    column("version", pa.string(), "of a slide in a bucket, else empty"),
    column("digest", pa.string(), "of a slide on a disk, else empty"),
    column("stains", pa.string(), "that it is normalized from, as JSON; else empty"),
    column("first_chunk", pa.int32(), "number of the first chunk to read"),
    column("chunks", pa.int32(), "how many chunks to read"),
)

OUTCOMES = table(
    column("slide_id", pa.string(), "the slide"),
    column("patient_id", pa.string(), "patient the slide belongs to", null=True),
    column(
        "tumor_mm2",
        pa.float64(),
        "area with probability >= threshold, or inside its refined outline, mm2",
    ),
    column("tissue_mm2", pa.float64(), "area of the tissue mask, mm2"),
    column("probability_max", pa.float64(), "highest probability over tissue"),
    column("lesions", pa.int64(), "lesions at the threshold", null=True),
    column(
        "largest_um",
        pa.float64(),
        "largest lesion that the size rule counts, um",
        null=True,
    ),
    column(
        "score",
        pa.float64(),
        "highest probability in a lesion that it counts",
        null=True,
    ),
    column("unsure", pa.float64(), "epistemic mean where p is 0.3-0.7", null=True),
    column("metastasis", pa.string(), "negative, itc, micro or macro", null=True),
    column("votes", pa.list_(pa.string()), "types by the four forests", null=True),
    column(
        "type_probability",
        pa.list_(pa.float64()),
        "of negative, itc, micro, macro; mean of the forests",
        null=True,
    ),
    column("burden", pa.float64(), "viable by whole tumor area, 0 to 1", null=True),
    column("viable_mm2", pa.float64(), "viable tumor, mm2", null=True),
    column("whole_mm2", pa.float64(), "whole tumor region, mm2", null=True),
    column(
        "whole_from",
        pa.string(),
        "what the whole tumor region is: hull, refined hull, or networks",
        null=True,
    ),
    column("burden_note", pa.string(), "why there is no burden", null=True),
    column(
        "classes",
        pa.list_(pa.string()),
        "that the members know; null: were not kept (--keep-classes)",
        null=True,
    ),
    column(
        "class_mm2",
        pa.list_(pa.float64()),
        "tissue that is likeliest of each of the classes, in their order, mm2",
        null=True,
    ),
    column("aleatoric_mean", pa.float64(), "variance, mean over tissue", null=True),
    column("aleatoric_max", pa.float64(), "variance, maximum over tissue", null=True),
    column("epistemic_mean", pa.float64(), "variance, mean over tissue", null=True),
    column("epistemic_max", pa.float64(), "variance, maximum over tissue", null=True),
    column("upsampled", pa.bool_(), "read from a coarser level by interpolation"),
    column("qc", pa.list_(pa.string()), "quality flags raised"),
    column("members", pa.list_(pa.string()), "members that predicted it", null=True),
    column(
        "seen_by",
        pa.list_(pa.string()),
        "members fitted on it or its patient",
        null=True,
    ),
    column("patches", pa.int64(), "patches predicted"),
    column("seconds", pa.float64(), "reading, predicting and finishing, seconds"),
    *_SHARES,
)

PATIENTS = table(
    column("patient_id", pa.string(), "the patient"),
    column("nodes", pa.int64(), "slides that have a type"),
    column("missing", pa.int64(), "slides that failed or were not there"),
    column("n_itc", pa.int64(), "slides with isolated tumor cells"),
    column("n_micro", pa.int64(), "slides with a micro-metastasis"),
    column("n_macro", pa.int64(), "slides with a macro-metastasis"),
    column(
        "pn_stage", pa.string(), "the stage; at least it if not complete", null=True
    ),
    column("complete", pa.bool_(), "no slide is missing"),
    column("note", pa.string(), "what to know of the stage", null=True),
)

ANNOTATIONS = table(
    column("slide_id", pa.string(), "the slide"),
    column("annotation", pa.string(), "file of its annotation", null=True),
    column("format", pa.string(), "format of the file"),
    column("tumor_shapes", pa.int64(), "shapes that are tumor; of a mask 1"),
    column("tumor_mm2", pa.float64(), "area drawn as tumor on the slide, mm2"),
    column("hole_mm2", pa.float64(), "area drawn as cut out of it, mm2"),
    column("ignored_mm2", pa.float64(), "area neither tumor nor normal, mm2"),
    column("beyond", pa.float64(), "tumor drawn beyond the slide, fraction"),
    column("classes", pa.list_(pa.string()), "classes of the file, and their meaning"),
    column("concerns", pa.list_(pa.string()), "what is not used as it was drawn"),
)

LESIONS = table(
    column("number", pa.int64(), "from 1, largest area first"),
    column("area_mm2", pa.float64(), "area of its pixels, mm2"),
    column("feret_um", pa.float64(), "largest distance of two points of it, um"),
    column("major_axis_um", pa.float64(), "of the ellipse of its moments, um"),
    column("mean_p", pa.float64(), "mean probability"),
    column("max_p", pa.float64(), "highest probability"),
    column("x_um", pa.float64(), "centroid, um from the slide's left edge"),
    column("y_um", pa.float64(), "centroid, um from the slide's top edge"),
    column("box", pa.list_(pa.int64()), "top, left, bottom, right, heatmap px"),
    column("counted", pa.bool_(), "by the size rule"),
    column("artifact", pa.string(), "kind that half of it lies in", null=True),
)
"""What report and viewer show of the lesions in a ``done`` record."""

_SAMPLE = (
    column("slide_id", pa.string(), "the slide"),
    column("x", pa.int64(), "top-left corner, px at level 0"),
    column("y", pa.int64(), "top-left corner, px at level 0"),
    column("tumor", pa.float32(), "fraction of the patch that is tumor"),
    column("area_mm2", pa.float64(), "tissue that the patch represents, mm2"),
)
SAMPLES = table(*_SAMPLE)

DRAWS = table(
    *_SAMPLE,
    column("dx", pa.int32(), "jitter, model px"),
    column("dy", pa.int32(), "jitter, model px"),
    column("seed", pa.int64(), "of the augmentation; -1: none"),
    column("batch", pa.int64(), "number of the batch in its epoch"),
)

FOLDS = table(
    column("slide_id", pa.string(), "the slide"),
    column("patient_id", pa.string(), "patient the slide belongs to", null=True),
    column("fold", pa.int32(), "fold it is validated in; null: test", null=True),
    column("tumor_patches", pa.int64(), "patches with tumor drawn on it"),
    column("normal_patches", pa.int64(), "patches without"),
)

FAILURES = table(
    column("slide_id", pa.string(), "the slide"),
    column("path", pa.string(), "file of the slide"),
    column("patient_id", pa.string(), "patient the slide belongs to", null=True),
    column("step", pa.string(), "prepare, read, predict, finish or measure"),
    column("attempt", pa.int32(), "how often it was tried"),
    column("error", pa.string(), "what went wrong"),
    column("hint", pa.string(), "what to do about it"),
    column(
        "cause",
        pa.string(),
        "slide; or memory, node, disk, storage, store: no slide's fault",
        null=True,
    ),
)

CHOICES: Mapping[str, tuple[str, ...]] = {
    "metastasis": ("negative", "itc", "micro", "macro"),
    "votes": ("negative", "itc", "micro", "macro"),
    "stain": ("macenko", "reinhard"),
    "artifact": ARTIFACTS,
    "whole_from": ("hull", "refined hull", "networks"),
    "pn_stage": ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2", "pN3a"),
}
"""Columns whose texts are one of these."""


MOST: Mapping[str, float] = {
    "width": 1 << 31,
    "height": 1 << 31,
    "mpp_x": 1e4,
    "mpp_y": 1e4,
    "effective_mpp_x": 1e4,
    "effective_mpp_y": 1e4,
    "level_downsamples": 1e6,
}
"""Columns whose numbers are above 0 and at most this, far beyond any slide's."""


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table's columns that a schema has, as it has them.

    Raises:
        ValueError: a column that must be known is missing or has gaps, or one is of
            another type or holds a text that is none of its CHOICES.
    """
    columns = []
    for field in schema:
        if table.column_names.count(field.name) > 1:
            raise ValueError(f"column {field.name} is there twice")
        if field.name not in table.column_names:
            if not field.nullable:
                raise ValueError(f"column {field.name} is missing")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        columns.append(_as_field(table[field.name], field))
    return pa.table(columns, schema=schema)


def check_row(row: Mapping[str, Any], schema: pa.Schema) -> None:
    """Refuse a row that is not of a schema; columns may be missing.

    Raises:
        ValueError: names the column and its value.
    """
    for field in schema:
        if field.name not in row:
            continue
        value = row[field.name]
        try:
            array = pa.array([list(value) if isinstance(value, tuple) else value])
            _as_field(pa.chunked_array([array]), field)
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as e:
            raise ValueError(f"{field.name} = {value!r:.100}: {e}") from e


def _sort_of(kind: pa.DataType) -> str:
    """Numbers, texts, booleans, or lists of them: between sorts nothing is cast."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _sort_of(kind.value_type)
        return "list" if inner == "nothing" else f"list of {inner}"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "texts"
    return "nothing" if pa.types.is_null(kind) else str(kind)


def _as_field(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column as a field has it.

    Raises:
        ValueError: it has gaps that the field does not allow, or other values.
    """
    if column.null_count and not field.nullable:
        raise ValueError(f"column {field.name} has gaps")
    sort = _sort_of(field.type)
    if _sort_of(column.type) not in (sort, sort.partition(" ")[0], "nothing"):
        raise ValueError(f"column {field.name} is {column.type}, not {field.type}")
    found = column.cast(field.type)
    values = pc.list_flatten(found) if pa.types.is_list(field.type) else found
    if field.name in CHOICES:
        odd = {*values.unique().to_pylist()} - {None, *CHOICES[field.name]}
        if odd:
            raise ValueError(f"column {field.name} holds {min(odd)!r:.40}")
    if field.name in MOST:
        numbers = values.to_numpy()
        if not ((numbers > 0) & (numbers <= MOST[field.name])).all():
            raise ValueError(f"column {field.name} is not between 0 and its most")
    return found
