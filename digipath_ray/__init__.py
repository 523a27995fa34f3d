"""Whole cohorts of gigapixel slides into tumor heatmaps and uncertainty maps, on Ray.

slides -> tissue mask -> patch table -> member probabilities -> heatmap

Khened et al. 2021, "A generalized deep learning framework for whole-slide image
segmentation and analysis", and past it.
"""

from digipath_ray.cohort import SlideRow, read_cohort
from digipath_ray.config import RunConfig, from_tree, load_config
from digipath_ray.heatmap import Heatmap, read_heatmap, write_heatmap
from digipath_ray.slide import Slide, SlideError, SlideInfo, open_slide

__version__ = "0.1.0"

__all__ = [
    "Heatmap",
    "RunConfig",
    "Slide",
    "SlideError",
    "SlideInfo",
    "SlideRow",
    "from_tree",
    "load_config",
    "open_slide",
    "read_cohort",
    "read_heatmap",
    "write_heatmap",
]
