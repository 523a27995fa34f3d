"""Reference stains of a member: the median of its training slides, for its card."""

import contextlib
import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from digipath_ray.slide.open import Slide
from digipath_ray.stain.estimate import (
    METHODS,
    StainError,
    StainEstimate,
    StainMethod,
    estimate_stains,
    median_estimate,
)
from digipath_ray.stain.fields import read_fields, without_folds
from digipath_ray.tissue.find import Tissue

STAINS = b"digipath_ray.stains"
"""Metadata of a slide's samples: method -> numbers of its estimate, as JSON."""
Stains = dict[StainMethod, tuple[float, ...]]


def note_stains(slide: Slide, tissue: Tissue) -> dict[bytes, bytes]:
    """The metadata of a slide's samples that holds its stains, of both methods.

    A method that cannot tell them is left out: the slide has no part in its median.

    Raises:
        SlideError: the file is damaged where it is sampled.
    """
    found: Stains = {}
    with contextlib.suppress(StainError):
        pixels = without_folds(read_fields(slide, tissue))
        for method in METHODS:
            with contextlib.suppress(StainError):
                found[method] = estimate_stains(pixels, method).values
    return {STAINS: json.dumps(found).encode()}


def reference_stains(
    tables: Mapping[str, pa.Table], slide_ids: Sequence[str]
) -> Stains:
    """Method -> median estimate of slides; of one that no slide has, nothing.

    Args:
        tables: slide_id -> SAMPLES of the slide.
        slide_ids: of the slides; those that an older version sampled have no part.
    """
    notes = [(tables[i].schema.metadata or {}).get(STAINS) for i in slide_ids]
    stains = [json.loads(note) for note in notes if note is not None]
    references: Stains = {}
    for method in METHODS:
        found = [
            StainEstimate(method=method, values=tuple(of_slide[method]))
            for of_slide in stains
            if method in of_slide
        ]
        if found:
            references[method] = median_estimate(found).values
    return references
