"""The pyarrow schema of every table a run writes, with the unit in each field."""

import pyarrow as pa

VERSION = 1


def _field(name: str, kind: pa.DataType, doc: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"doc": doc})


def _schema(*columns: pa.Field) -> pa.Schema:
    return pa.schema(columns, metadata={"digipath_ray.schema": str(VERSION)})


SLIDES = _schema(
    _field("slide_id", pa.string(), "unique in the cohort"),
    _field("path", pa.string(), "file of the slide"),
    _field("patient_id", pa.string(), "patient the slide belongs to", null=True),
    _field("node", pa.string(), "lymph node of the patient", null=True),
    _field("label", pa.string(), "reference metastasis type", null=True),
    _field("split", pa.string(), "train, validation or test", null=True),
    _field("annotation", pa.string(), "file of the reference annotation", null=True),
    _field("exhaustive", pa.bool_(), "all tumor is annotated", null=True),
    _field("mask", pa.string(), "file of the tissue mask given", null=True),
    _field("width", pa.int64(), "px at level 0"),
    _field("height", pa.int64(), "px at level 0"),
    _field("mpp_x", pa.float64(), "um per px at level 0"),
    _field("mpp_y", pa.float64(), "um per px at level 0"),
    _field("mpp_source", pa.string(), "where mpp came from"),
    _field("level_downsamples", pa.list_(pa.float64()), "level-0 px per level px"),
    _field("level", pa.int64(), "level that is read"),
    _field("effective_mpp_x", pa.float64(), "um per model px"),
    _field("effective_mpp_y", pa.float64(), "um per model px"),
    _field("upsampled", pa.bool_(), "no level was fine enough"),
    _field("patches", pa.int64(), "patches placed"),
    _field("chunks", pa.int64(), "chunks they are read in"),
    _field("tissue_mm2", pa.float64(), "area of the tissue mask, mm2"),
    _field("ink", pa.float64(), "drawn ink, fraction of the slide"),
    _field("ink_over_tissue", pa.float64(), "ink touching tissue, fraction of tissue"),
    _field("blur", pa.float64(), "blurred part of the tissue, fraction"),
    _field("black", pa.float64(), "black part of the slide, fraction"),
    _field("blank", pa.float64(), "white part of the slide, fraction"),
    _field("mpp_deviation", pa.float64(), "relative, effective against asked-for mpp"),
    _field("qc", pa.list_(pa.string()), "quality flags raised"),
    _field(
        "seen_by",
        pa.list_(pa.string()),
        "members fitted on it or its patient",
        null=True,
    ),
)

PATCHES = _schema(
    _field("slide_id", pa.string(), "the slide"),
    _field("row", pa.int32(), "grid cell"),
    _field("col", pa.int32(), "grid cell"),
    _field("x", pa.int64(), "top-left corner, px at level 0"),
    _field("y", pa.int64(), "top-left corner, px at level 0"),
    _field("level", pa.int32(), "level that is read"),
    _field("read_px", pa.int32(), "side of the patch in px of that level"),
    _field("mpp_x", pa.float64(), "effective um per model px"),
    _field("mpp_y", pa.float64(), "effective um per model px"),
    _field("tissue", pa.float32(), "fraction of the patch that is tissue"),
)

SHARDS = _schema(
    _field("slide_id", pa.string(), "the slide"),
    _field("path", pa.string(), "file of the slide"),
    _field("slide_mpp", pa.float64(), "um/px of level 0 to assume", null=True),
    _field("first_chunk", pa.int32(), "number of the first chunk to read"),
    _field("chunks", pa.int32(), "how many chunks to read"),
)

OUTCOMES = _schema(
    _field("slide_id", pa.string(), "the slide"),
    _field("patient_id", pa.string(), "patient the slide belongs to", null=True),
    _field("tumor_mm2", pa.float64(), "area with probability >= threshold, mm2"),
    _field("tissue_mm2", pa.float64(), "area of the tissue mask, mm2"),
    _field("probability_max", pa.float64(), "highest probability over tissue"),
    _field("lesions", pa.int64(), "lesions at the threshold", null=True),
    _field(
        "largest_um",
        pa.float64(),
        "largest lesion that the size rule counts, um",
        null=True,
    ),
    _field(
        "score",
        pa.float64(),
        "highest probability in a lesion that it counts",
        null=True,
    ),
    _field("unsure", pa.float64(), "epistemic mean where p is 0.3-0.7", null=True),
    _field("metastasis", pa.string(), "negative, itc, micro or macro", null=True),
    _field("votes", pa.list_(pa.string()), "types by the four forests", null=True),
    _field(
        "type_probability",
        pa.list_(pa.float64()),
        "of negative, itc, micro, macro; mean of the forests",
        null=True,
    ),
    _field("burden", pa.float64(), "viable by whole tumor area, 0 to 1", null=True),
    _field("viable_mm2", pa.float64(), "viable tumor, mm2", null=True),
    _field("whole_mm2", pa.float64(), "whole tumor region, mm2", null=True),
    _field("burden_note", pa.string(), "why there is no burden", null=True),
    _field("aleatoric_mean", pa.float64(), "variance, mean over tissue", null=True),
    _field("aleatoric_max", pa.float64(), "variance, maximum over tissue", null=True),
    _field("epistemic_mean", pa.float64(), "variance, mean over tissue", null=True),
    _field("epistemic_max", pa.float64(), "variance, maximum over tissue", null=True),
    _field("upsampled", pa.bool_(), "read from a coarser level by interpolation"),
    _field("qc", pa.list_(pa.string()), "quality flags raised"),
    _field("members", pa.list_(pa.string()), "members that predicted it", null=True),
    _field(
        "seen_by",
        pa.list_(pa.string()),
        "members fitted on it or its patient",
        null=True,
    ),
    _field("patches", pa.int64(), "patches predicted"),
    _field("seconds", pa.float64(), "reading, predicting and finishing, seconds"),
)

PATIENTS = _schema(
    _field("patient_id", pa.string(), "the patient"),
    _field("nodes", pa.int64(), "slides that have a type"),
    _field("missing", pa.int64(), "slides that failed or were not there"),
    _field("n_itc", pa.int64(), "slides with isolated tumor cells"),
    _field("n_micro", pa.int64(), "slides with a micro-metastasis"),
    _field("n_macro", pa.int64(), "slides with a macro-metastasis"),
    _field(
        "pn_stage", pa.string(), "the stage; at least it if not complete", null=True
    ),
    _field("complete", pa.bool_(), "no slide is missing"),
    _field("note", pa.string(), "what to know of the stage", null=True),
)

_SAMPLE = (
    _field("slide_id", pa.string(), "the slide"),
    _field("x", pa.int64(), "top-left corner, px at level 0"),
    _field("y", pa.int64(), "top-left corner, px at level 0"),
    _field("tumor", pa.float32(), "fraction of the patch that is tumor"),
    _field("area_mm2", pa.float64(), "tissue that the patch stands for, mm2"),
)
SAMPLES = _schema(*_SAMPLE)

DRAWS = _schema(
    *_SAMPLE,
    _field("dx", pa.int32(), "jitter, model px"),
    _field("dy", pa.int32(), "jitter, model px"),
    _field("seed", pa.int64(), "of the augmentation; -1: none"),
    _field("batch", pa.int64(), "number of the batch in its epoch"),
)

FOLDS = _schema(
    _field("slide_id", pa.string(), "the slide"),
    _field("patient_id", pa.string(), "patient the slide belongs to", null=True),
    _field("fold", pa.int32(), "fold it is validated in; null: test", null=True),
    _field("tumor_patches", pa.int64(), "patches with tumor drawn on it"),
    _field("normal_patches", pa.int64(), "patches without"),
)

FAILURES = _schema(
    _field("slide_id", pa.string(), "the slide"),
    _field("path", pa.string(), "file of the slide"),
    _field("patient_id", pa.string(), "patient the slide belongs to", null=True),
    _field("step", pa.string(), "prepare, read, predict, finish or measure"),
    _field("attempt", pa.int32(), "how often it was tried"),
    _field("error", pa.string(), "what went wrong"),
    _field("hint", pa.string(), "what to do about it"),
)
