"""Annotations of a cohort's slides, held against its labels and each other."""

from collections.abc import Iterable, Mapping

from digipath_ray.annotations import Account, Annotation, read_annotation
from digipath_ray.annotations.window import SlideSize
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.fit_classes import ClassSpec
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.slide.info import SlideError
from digipath_ray.words import count

TUMOR_LABELS = (
    "tumor",
    "tumour",
    "positive",
    "metastasis",
    "metastases",
    "metastatic",
    "cancer",
    "carcinoma",
    "malignant",
    "itc",
    "micro",
    "macro",
)
"""Labels that say a slide holds tumor; others may be of something else."""
MOST_LINES = 20
"""Slides that are named one by one."""


def is_tumor_label(label: str | None) -> bool:
    """Whether a label says that the slide holds tumor."""
    return (label or "").strip().lower() in TUMOR_LABELS


def read_row(
    row: SlideRow,
    size: SlideSize,
    spec: AnnotationSpec,
    *,
    trusted: bool = False,
    classes: ClassSpec | None = None,
) -> Annotation:
    """Read the annotation of a slide that has one.

    Args:
        row: the slide.
        size: its ``SlideInfo``, or any object with width, height and canvas.
        spec: how annotations are understood.
        trusted: values and label were found to be clear before.
        classes: that a fit tells apart, if they are named.

    Raises:
        SlideError: the annotation cannot be read, or has no tumor against the label.
    """
    found = read_annotation(
        str(row.annotation),
        slide=size,
        classes=spec.meanings,
        above=spec.mask_above,
        origin=spec.origin,
        values=spec.mask_meanings,
        trusted=trusted,
        spec=classes,
    )
    if not trusted:
        check_label(row, found)
    return found


def check_label(row: SlideRow, annotation: Annotation) -> None:
    """Raise if a slide is labeled as tumor and its annotation holds none.

    Raises:
        SlideError: naming the label and the file.
    """
    if is_tumor_label(row.label) and annotation.area_px == 0:
        raise SlideError(
            f"labeled {row.label!r}, but its annotation {row.annotation} holds no "
            "tumor",
            "give the annotation that has it, or change the label to negative",
        )


def check_cohort_classes(accounts: Mapping[str, Account]) -> dict[str, SlideError]:
    """Slides whose tumor has no class, where other files of their format have classes.

    Args:
        accounts: slide_id -> account of its annotation.
    """
    classified: dict[str, list[str]] = {}
    for account in accounts.values():
        if account.classes and not account.unclassified:
            names = [use.name for use in account.classes]
            classified.setdefault(account.kind, names)
    return {
        slide_id: SlideError(
            "its outlines have no class, beside others of the cohort that have "
            f"({', '.join(classified[account.kind][:3])}): whether they are tumor is "
            "not defined",
            "give them a class, or say what they mean: --classes unclassified=tumor, "
            "or unclassified=skip",
        )
        for slide_id, account in accounts.items()
        if account.unclassified and account.kind in classified
    }


def describe_accounts(accounts: Mapping[str, Account]) -> Iterable[str]:
    """Lines on what of the annotations is not used as drawn; a slide each."""
    concerned = {i: a.concerns for i, a in accounts.items() if a.concerns}
    for slide_id, concerns in list(concerned.items())[:MOST_LINES]:
        yield f"annotation of {slide_id}: {'; '.join(concerns)}"
    if len(concerned) > MOST_LINES:
        more = count(len(concerned) - MOST_LINES, "more annotation")
        yield f"{more} of which not all is used, e.g. of {list(concerned)[MOST_LINES]}"
