"""The record of a slide of 1 um per px, for tests that need no file of it."""

from typing import Any

from digipath_ray.run.record import DoneRecord, SlideRecord

DEFAULTS: dict[str, Any] = {
    "slide_id": "s",
    "path": "/slides/s.tif",
    "width": 4000,
    "height": 3000,
    "mpp_x": 1.0,
    "mpp_y": 1.0,
    "mpp_source": "file",
    "level_downsamples": (1.0, 4.0),
    "level": 0,
    "effective_mpp_x": 1.0,
    "effective_mpp_y": 1.0,
    "upsampled": False,
    "patches": 100,
    "chunks": 2,
    "tissue_mm2": 7.04,
    "ink": 0.0,
    "ink_over_tissue": 0.0,
    "blur": 0.0,
    "black": 0.0,
    "blank": 0.4,
    "mpp_deviation": 0.0,
    "qc": (),
    "seen_by": (),
}


def record_of(slide_id: str = "s", **changes: Any) -> SlideRecord:
    """A prepared slide, with fields that are not the default."""
    return SlideRecord(**{**DEFAULTS, "slide_id": slide_id, **changes})


def done_of(slide: SlideRecord | None = None, **changes: Any) -> DoneRecord:
    """The record of a finished slide, with fields that are not the default."""
    values = {"outcome": {}, "precision": "float32", "members": {"a": "a" * 64}}
    return DoneRecord(**{**values, "slide": slide or record_of(), **changes})
