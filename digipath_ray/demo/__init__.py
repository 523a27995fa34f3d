"""Demo cohort: synthetic slides, and an ensemble trained on other synthetic slides.

seed -> anatomy (layout) -> tissues (appearance) -> nuclei -> painting -> drawing (one
slide) -> cohort (files and manifest) -> fitting (training data of ``weights/``); truth
scores a run.
"""

from digipath_ray.demo.cohort import build_cohort, build_demo_cohort, demo_slides
from digipath_ray.demo.drawing import DemoSlide, draw_slide
from digipath_ray.demo.fit_cohort import build_fit_cohort, fit_slides

__all__ = [
    "DemoSlide",
    "build_cohort",
    "build_demo_cohort",
    "build_fit_cohort",
    "demo_slides",
    "draw_slide",
    "fit_slides",
]
