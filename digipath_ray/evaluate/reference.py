"""References: manifests with annotations, or folders of masks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from digipath_ray.annotations import (
    ANNOTATION_SUFFIXES,
    Account,
    MaskAnnotation,
)
from digipath_ray.annotations.maskfile import open_mask
from digipath_ray.annotations.maskimage import annotation_of_mask
from digipath_ray.annotations.maskvalues import MaskRule
from digipath_ray.cohort.drawn import (
    check_cohort_classes,
    describe_accounts,
)
from digipath_ray.cohort.manifest import MANIFEST_SUFFIXES, SlideRow, read_manifest
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.run.record import SlideRecord
from digipath_ray.slide.info import Canvas, SlideError, SlideInfo
from digipath_ray.slide.open import open_slide

ENDINGS = ("_mask", "_viable")
"""Infixes of the challenges between a slide's name and its mask's suffix."""
DRAWN = (".xml", ".geojson", ".json", ".gz")
"""Suffixes of annotations that are outlines, not images."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference annotations by slide_id.

    Attributes:
        rows: slides with their annotation files; a negative one has none.
        lists_all: whether a slide not in ``rows`` is unknown rather than negative.
    """

    rows: dict[str, SlideRow]
    lists_all: bool

    def with_negatives(self, slide_ids: Iterable[str]) -> dict[str, SlideRow]:
        """Rows, plus slides without a mask if the reference is a folder of masks."""
        if self.lists_all:
            return self.rows
        bare = {i: SlideRow(slide_id=i, path="", label="negative") for i in slide_ids}
        return {**bare, **self.rows}


def read_reference(path: Path) -> Reference:
    """Read a manifest with annotations, or a folder of annotations named by slide_id.

    Raises:
        ValueError: neither of the two, empty, or a slide of the manifest has a tumor
            label but no annotation.
    """
    if path.is_dir():
        found = annotations_in(path)
        rows = {
            slide_id: SlideRow(slide_id=slide_id, path="", annotation=str(file))
            for slide_id, file in found.items()
        }
        return Reference(rows=rows, lists_all=False)
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise ValueError(
            f"{path}: not a reference: give a manifest "
            f"({' '.join(MANIFEST_SUFFIXES)}) with a column annotation, or a folder "
            "of masks named by slide_id"
        )
    rows = {}
    for row, where in read_manifest(path):
        if row.annotation is None and row.label is not None and not row.is_negative:
            raise ValueError(
                f"{where}: {row.slide_id} is labeled {row.label!r} and has no "
                "annotation: add it, or remove the slide"
            )
        if rows.setdefault(row.slide_id, row) is not row:
            raise ValueError(f"{where}: duplicate {row.slide_id}: remove one")
    return Reference(rows=rows, lists_all=True)


def annotations_in(folder: Path) -> dict[str, Path]:
    """List a folder's annotations by slide_id: ``<slide_id>.png``, .xml etc.

    The challenges' infixes ``_mask`` and ``_viable`` are stripped from the name.

    Raises:
        ValueError: not a folder, without annotations, or with two for a slide.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: neither a run directory nor a folder of masks named by slide_id"
        )
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        suffix = _suffix_of(file)
        if suffix is None or file.name.startswith("."):
            continue
        slide_id = file.name[: -len(suffix)]
        ending = next((e for e in ENDINGS if slide_id.lower().endswith(e)), "")
        slide_id = slide_id[: len(slide_id) - len(ending)]
        first = found.setdefault(slide_id, file)
        if first is not file:
            raise ValueError(
                f"{folder}: {first.name} and {file.name} are of the same slide"
            )
    if not found:
        raise ValueError(
            f"{folder}: no annotations in this folder: name them <slide_id>.png, or "
            f"another of {' '.join(ANNOTATION_SUFFIXES)}"
        )
    return found


def _suffix_of(file: Path) -> str | None:
    longest = sorted(ANNOTATION_SUFFIXES, key=len, reverse=True)
    return next((s for s in longest if file.name.lower().endswith(s)), None)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Size of a slide in level-0 px, its um per level-0 px, and its canvas if any."""

    width: int
    height: int
    mpp_x: float
    mpp_y: float
    canvas: Canvas | None = None


def extent_of_record(slide: SlideRecord) -> Extent:
    """The extent of a slide of a run."""
    return Extent(
        width=slide.width,
        height=slide.height,
        mpp_x=slide.mpp_x,
        mpp_y=slide.mpp_y,
        canvas=slide.canvas,
    )


def extent_of_row(row: SlideRow, spec: AnnotationSpec, *, mpp: float) -> Extent:
    """Extent of a slide outside a run: from its file, else from its mask.

    Args:
        row: the slide; a mask is assumed to be at level 0.
        spec: how to interpret annotations.
        mpp: um per px of a slide with only a mask.

    Raises:
        SlideError: the slide's file is missing, and the annotation is not an image.
    """
    info = size_of_file(row)
    if info is not None:
        mpp_x, mpp_y = info.need_mpp()
        return Extent(
            width=info.width,
            height=info.height,
            mpp_x=mpp_x,
            mpp_y=mpp_y,
            canvas=info.canvas,
        )
    if row.annotation is None or is_drawn(row.annotation):
        raise unknown_size(row.slide_id)
    mask = read_own_size(row.slide_id, Path(row.annotation), spec)
    slide = row.mpp or mpp
    return Extent(width=mask.width, height=mask.height, mpp_x=slide, mpp_y=slide)


def size_of_file(row: SlideRow) -> SlideInfo | None:
    """Metadata of a slide's file; None if it is missing."""
    if not Path(row.path).is_file():
        return None
    with open_slide(row.path, mpp=row.mpp) as slide:
        return slide.info


def is_drawn(annotation: str | Path) -> bool:
    """Whether an annotation is outlines rather than an image."""
    return str(annotation).lower().endswith(DRAWN)


def unknown_size(slide_id: str) -> SlideError:
    """Error for a slide of unknown size."""
    return SlideError(
        f"{slide_id}: the size of the slide is unknown",
        "give a reference with the path of the existing slide file, or a mask of "
        "the slide's full size, or a run as prediction",
    )


def read_own_size(
    slide_id: str, file: Path, spec: AnnotationSpec, *, is_prediction: bool = False
) -> MaskAnnotation:
    """Read a mask whose pixels are level-0 px of its slide.

    Raises:
        SlideError: not an image, damaged, or of unclear values.
    """
    if is_drawn(file):
        raise unknown_size(slide_id)
    rule = MaskRule(
        above=spec.mask_above, values=spec.mask_meanings, is_prediction=is_prediction
    )
    pixels = open_mask(file, rule)
    bits = pixels.tumor
    return annotation_of_mask(pixels, width=bits.width, height=bits.height)


def note_annotations(accounts: Mapping[str, Account]) -> list[str]:
    """Notes on what of the reference's annotations is not used as drawn.

    Args:
        accounts: slide_id -> account of its annotation.

    Raises:
        SlideError: tumor of one has no class, where others have classes.
    """
    for slide_id, error in check_cohort_classes(accounts).items():
        raise SlideError(f"{slide_id}: {error}", error.hint)
    return list(describe_accounts(accounts))
