"""What a run knows of a slide: one record, from the patch table to the done file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any, Self, cast, get_type_hints

import pyarrow as pa
from pydantic import TypeAdapter

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import GridSpec
from digipath_ray.geometry import model_frame
from digipath_ray.patches import Grid
from digipath_ray.schema import ARTIFACTS, LESIONS, OUTCOMES, SLIDES, check_row, conform
from digipath_ray.slide.info import Canvas, SlideInfo
from digipath_ray.stain.estimate import StainEstimate, StainMethod
from digipath_ray.storage.files import text_digest

DIGEST, END = ',\n "sha256": ', "\n}"
"""What stands before a record's own digest in its file, and the end of the file."""


@dataclass(frozen=True, kw_only=True)
class SlideRecord(SlideRow):
    """A slide whose tissue was found and whose patches were placed.

    It is the manifest's row with what the file and the tissue mask added; its columns
    are those of :data:`digipath_ray.schema.SLIDES`, where their units are.

    Attributes:
        mask_digest: SHA-256 of the tissue mask given in the manifest.
        version: of the object, if the slide is in a bucket.
        digest: of all its files (:func:`digipath_ray.storage.digest.slide_digest`);
            None in runs of older versions.
        offset_x, offset_y, canvas_width, canvas_height, reader: None in runs of older
            versions.
        stain, stain_values, stain_note: None where stains are not asked for; values are
            None where they could not be told; with a note the slide stays as it is.
        artifact_blur, artifact_fold, artifact_bubble, artifact_pen, artifact_blot: None
            where artifacts were not looked for.
    """

    width: int
    height: int
    mpp_x: float
    mpp_y: float
    mpp_source: str
    level_downsamples: tuple[float, ...]
    level: int
    effective_mpp_x: float
    effective_mpp_y: float
    upsampled: bool
    patches: int
    chunks: int
    tissue_mm2: float
    ink: float
    ink_over_tissue: float
    blur: float
    black: float
    blank: float
    mpp_deviation: float
    qc: tuple[str, ...]
    seen_by: tuple[str, ...] | None = None
    mask_digest: str | None = None
    version: str | None = None
    digest: str | None = None
    offset_x: int | None = None
    offset_y: int | None = None
    canvas_width: int | None = None
    canvas_height: int | None = None
    reader: str | None = None
    stain: str | None = None
    stain_values: tuple[float, ...] | None = None
    stain_note: str | None = None
    artifact_blur: float | None = None
    artifact_fold: float | None = None
    artifact_bubble: float | None = None
    artifact_pen: float | None = None
    artifact_blot: float | None = None

    @property
    def normalized_from(self) -> StainEstimate | None:
        """The stains that its pixels are normalized from; None if they are not."""
        if self.stain is None or self.stain_note is not None:
            return None
        method, values = self.stain, self.stain_values or ()
        return StainEstimate(method=cast(StainMethod, method), values=values)

    @property
    def artifacts(self) -> dict[str, float]:
        """Kind -> its part of the tissue; empty if artifacts were not looked for."""
        shares = {kind: getattr(self, f"artifact_{kind}") for kind in ARTIFACTS}
        return {kind: share for kind, share in shares.items() if share is not None}

    @property
    def canvas(self) -> Canvas | None:
        """Where the slide lies in its canvas; None if it is its own, or not known."""
        return canvas_of_row(vars(self))

    def grid(self, spec: GridSpec) -> Grid:
        """The slide's grid of patches, as it was laid when they were placed."""
        frame = model_frame(
            level_downsamples=self.level_downsamples,
            mpp_x=self.mpp_x,
            mpp_y=self.mpp_y,
            mpp=spec.mpp,
            allow_upsampling=self.upsampled,
        )
        md_width, md_height = frame.md_size(self.width, self.height)
        return Grid(spec=spec, frame=frame, md_width=md_width, md_height=md_height)

    def to_row(self) -> dict[str, Any]:
        """The slide's row of the SLIDES table."""
        values = asdict(self)
        return {
            name: list(v) if isinstance(v := values[name], tuple) else v
            for name in SLIDES.names
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any], **others: Any) -> Self:
        """A record of a row of the SLIDES table.

        Args:
            row: the row; columns of another version are ignored.
            **others: fields that the table does not have. Without ``mpp`` it is the
                row's if that came from the manifest.

        Raises:
            KeyError, TypeError: the row lacks a column.
            ValueError: its stains are none.
        """
        values = {**row, **others}
        if "mpp" not in others:
            given = row["mpp_source"] == "manifest"
            values["mpp"] = row["mpp_x"] if given else None
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("level_downsamples", "qc", "seen_by", "stain_values"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        record = cls(**known)
        _ = record.normalized_from  # refused now, not when its chunks are read
        return record


def canvas_columns(info: SlideInfo) -> dict[str, Any]:
    """The columns of SLIDES that hold where a slide lies in its canvas."""
    canvas = info.canvas
    whole = (0, 0, info.width, info.height)
    x, y, width, height = astuple(canvas) if canvas else whole
    return {
        "offset_x": x,
        "offset_y": y,
        "canvas_width": width,
        "canvas_height": height,
    }


def canvas_of_row(row: Mapping[str, Any]) -> Canvas | None:
    """Where a slide of a row of SLIDES lies in its canvas; None if it is its own."""
    columns = ("offset_x", "offset_y", "canvas_width", "canvas_height")
    values = [row.get(name) for name in columns]
    if None in values or values == [0, 0, row["width"], row["height"]]:
        return None
    x, y, width, height = (int(v) for v in values if v is not None)
    return Canvas(offset_x=x, offset_y=y, width=width, height=height)


@dataclass(frozen=True, kw_only=True)
class DoneRecord:
    """A finished slide, as its file in ``done/`` holds it.

    Attributes:
        slide: the slide.
        outcome: its row of OUTCOMES, without what the whole cohort decides.
        features: the 32 of Table 5; None unless stages are asked for.
        lesions: the largest, with their measures; ``counted`` is by the size rule.
        groups: extent in um and highest probability of each group of merged lesions.
        measured: the settings that the outcome was measured with; None if unknown.
        precision: of the networks.
        members: name -> digest of its weights (or ``random``, ``imagenet``).
        files: kind of file (:meth:`RunDirectory.slide_files`) -> SHA-256; of older
            versions the heatmap's alone.
        made_with: what predicted it (:mod:`digipath_ray.run.provenance`); None if it
            was an older version.
    """

    slide: SlideRecord
    outcome: dict[str, Any]
    features: dict[str, float] | None = None
    lesions: list[dict[str, Any]] = field(default_factory=list)
    groups: list[list[float]] = field(default_factory=list)
    measured: dict[str, Any] | None = None
    precision: str
    members: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, Any] | None = None

    @property
    def was_seen(self) -> bool:
        """Whether a member that predicted the slide was fitted on it or its patient."""
        return not self.members.keys().isdisjoint(self.slide.seen_by or ())

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **values,
            "slide": self.slide.to_row(),
            "slide_mpp": self.slide.mpp,
            "mask_digest": self.slide.mask_digest,
            "version": self.slide.version,
        }

    def to_text(self) -> str:
        """The record as its file holds it; the last field is a digest of the others."""
        body = json.dumps(self.to_json(), indent=1)
        return f'{body.removesuffix(END)}{DIGEST}"{text_digest(body)}"{END}'

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The record of a file's text.

        Raises:
            ValueError: the file is damaged, or no record.
        """
        try:
            values = json.loads(text)
        except RecursionError as e:
            raise ValueError("nested beyond reason") from e
        record = cls.from_json(values)
        head, found, tail = text.rpartition(DIGEST)
        intact = found and tail == f'"{text_digest(head + END)}"{END}'
        # Older versions wrote neither a digest nor what a slide was made with.
        if not intact and (found or record.made_with is not None):
            raise ValueError(
                "the record of a finished slide was changed after it was written"
            )
        return record

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record of a file's JSON.

        Raises:
            ValueError: a field is missing or wrong.
        """
        try:
            known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
            for name, fits in _FIELDS.items():
                if name in known:
                    fits.validate_python(known[name], strict=True)
            check_row(values["slide"], SLIDES)
            check_row(values["outcome"], OUTCOMES)
            if known.get("lesions"):
                conform(pa.Table.from_pylist(known["lesions"]), LESIONS)
            known["slide"] = SlideRecord.from_row(
                values["slide"],
                mpp=values.get("slide_mpp"),
                mask_digest=values.get("mask_digest"),
                version=values.get("version"),
            )
            return cls(**known)
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            pa.ArrowException,
        ) as e:
            raise ValueError(f"no record of a finished slide: {e!r}") from e


_FIELDS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(hint)
    for name, hint in get_type_hints(DoneRecord).items()
    if name != "slide"
}
"""What the fields of a record are in JSON."""
