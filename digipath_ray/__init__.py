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
    from digipath_ray.cohort.inputs import SlideRow, read_cohort
    from digipath_ray.config.run import RunConfig
    from digipath_ray.config.toml import load_config
    from digipath_ray.heatmap.file import read_heatmap, write_heatmap
    from digipath_ray.heatmap.heatmap import Heatmap
    from digipath_ray.networks.predict import load_ensemble
    from digipath_ray.networks.resolve import resolve
    from digipath_ray.outcome.lesions import find_lesions
    from digipath_ray.outcome.staging import Metastasis, stage_nodes
    from digipath_ray.pipeline.segment import segment_slide
    from digipath_ray.slide.open import Slide, SlideError, open_slide

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
    "cohort.inputs": ("SlideRow", "read_cohort"),
    "config.run": ("RunConfig",),
    "heatmap.heatmap": ("Heatmap",),
    "heatmap.file": ("read_heatmap", "write_heatmap"),
    "outcome.lesions": ("find_lesions",),
    "networks.resolve": ("resolve",),
    "pipeline.segment": ("segment_slide",),
    "networks.predict": ("load_ensemble",),
    "config.toml": ("load_config",),
    "slide.open": ("Slide", "SlideError", "open_slide"),
    "outcome.staging": ("Metastasis", "stage_nodes"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"digipath_ray.{module}"), name)
    raise AttributeError(f"module 'digipath_ray' has no attribute {name!r}")
