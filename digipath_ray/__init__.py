"""Whole cohorts of gigapixel slides into heatmaps, pN stages and burdens, on Ray.

slides -> tissue mask -> patch table -> member probabilities -> heatmap
-> lesions, features, burden -> metastasis type -> pN stage -> report

Khened et al. 2021, "A generalized deep learning framework for whole-slide image
segmentation and analysis", and past it. The names below are loaded when first used, so
that a task which only reads slides does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digipath_ray.cohort import SlideRow, read_cohort
    from digipath_ray.config import RunConfig
    from digipath_ray.heatmap import Heatmap
    from digipath_ray.heatmapfile import read_heatmap, write_heatmap
    from digipath_ray.lesions import find_lesions
    from digipath_ray.members import resolve
    from digipath_ray.pipeline import segment_slide
    from digipath_ray.predict import load_ensemble
    from digipath_ray.settings import load_config
    from digipath_ray.slide import Slide, SlideError, open_slide
    from digipath_ray.staging import Metastasis, stage_nodes

__version__ = "0.1.0"

__all__ = [
    "Heatmap",
    "Metastasis",
    "RunConfig",
    "Slide",
    "SlideError",
    "SlideRow",
    "find_lesions",
    "load_config",
    "load_ensemble",
    "open_slide",
    "read_cohort",
    "read_heatmap",
    "resolve",
    "segment_slide",
    "stage_nodes",
    "write_heatmap",
]

_HOME = {
    "cohort": ("SlideRow", "read_cohort"),
    "config": ("RunConfig",),
    "heatmap": ("Heatmap",),
    "heatmapfile": ("read_heatmap", "write_heatmap"),
    "lesions": ("find_lesions",),
    "members": ("resolve",),
    "pipeline": ("segment_slide",),
    "predict": ("load_ensemble",),
    "settings": ("load_config",),
    "slide": ("Slide", "SlideError", "open_slide"),
    "staging": ("Metastasis", "stage_nodes"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"digipath_ray.{module}"), name)
    raise AttributeError(f"module 'digipath_ray' has no attribute {name!r}")
