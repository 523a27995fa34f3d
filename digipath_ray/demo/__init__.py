"""A cohort to try everything on: drawn slides, and members without trained weights.

seed -> anatomy (what lies where) -> tissues (how each looks) -> nuclei -> painting
-> drawing (one slide) -> cohort (files and manifest); members look at the result.
"""

from digipath_ray.demo.cohort import build_demo_cohort, demo_slides
from digipath_ray.demo.drawing import DemoSlide, draw_slide

__all__ = ["DemoSlide", "build_demo_cohort", "demo_slides", "draw_slide"]
