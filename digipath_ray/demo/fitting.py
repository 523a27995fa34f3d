"""What the demo's ensemble is fitted on, and a fit that takes a minute.

``jobs/demo.toml`` is the recipe that made ``weights/``; no slide of :data:`FIT_SEEDS`
is one of the demo's.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from digipath_ray.config.toml import Tree, merge, read_preset
from digipath_ray.demo.anatomy import Label
from digipath_ray.demo.cohort import build_cohort, demo_slides
from digipath_ray.demo.drawing import DemoSlide
from digipath_ray.demo.painting import InkColor

FIT_SEEDS = (101, 102, 103, 104, 105, 106)
"""Of the cohorts that the demo's ensemble is fitted on."""
INKS: tuple[InkColor, ...] = ("blue", "green")
BRIEF_SEED = 100
BRIEF_MEMBER = "linknet-mobilenetv3"
BRIEF: Tree = {
    "sampling": {
        "fit_patch_px": 128,
        "jitter_px": 64.0,
        "tumor_per_slide": 128,
        "normal_per_slide": 128,
        "epoch_patches": 256,
        "validation_patches": 96,
    },
    "fit": {
        "folds": 2,
        "epochs": 3,
        "learning_rates": [0.002],
        "decay_epochs": [],
    },
}
"""Three epochs of 16 steps: enough to see the loss fall."""


def fit_slides(seeds: Sequence[int] = FIT_SEEDS) -> tuple[DemoSlide, ...]:
    """A demo cohort of each seed, none of whose slides is damaged.

    Every patient has tumor, so every fold has; ink is blue in one cohort and green in
    the next.
    """
    return tuple(
        replace(
            slide,
            slide_id=f"seed_{seed}_{slide.slide_id}",
            patient_id=f"seed_{seed}_{slide.patient_id}",
            ink=INKS[number % len(INKS)] if slide.ink else None,
            damaged=False,
        )
        for number, seed in enumerate(seeds)
        for slide in demo_slides(seed)
    )


def build_fit_cohort(folder: str | Path) -> Path:
    """Draw the slides that the demo's ensemble is fitted on; the manifest's path."""
    return build_cohort(Path(folder), fit_slides())


def brief_slides() -> tuple[DemoSlide, ...]:
    """Four small slides of two patients, each with a micrometastasis on one of them."""
    seeds = np.random.SeedSequence(BRIEF_SEED).generate_state(4).tolist()
    labels: tuple[Label, ...] = ("micro", "negative")
    return tuple(
        DemoSlide(
            slide_id=f"brief_{patient}_{label}",
            patient_id=f"brief_{patient}",
            node=node,
            label=label,
            seed=seeds.pop(),
            width=1792,
            height=1536,
            tissue_mm=(1.5, 1.25),
        )
        for patient in (1, 2)
        for node, label in enumerate(labels, start=1)
    )


def brief_recipe() -> Tree:
    """The demo's settings, and one of its networks fitted from random weights."""
    preset = read_preset("demo")
    (member,) = (m for m in preset["members"] if m["name"] == BRIEF_MEMBER)
    return merge(preset, BRIEF, {"members": [{**member, "weights": "random"}]})
