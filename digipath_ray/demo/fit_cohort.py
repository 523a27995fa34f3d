"""Training cohort of the demo's ensemble, and a fit that takes a minute.

``jobs/demo.toml`` is the recipe of ``weights/``; no slide of :data:`FIT_SEEDS` is in
the demo cohort.
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
"""Seeds of the cohorts that the demo's ensemble is trained on."""
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
    """One demo cohort per seed, without damaged slides.

    Every patient, and so every fold, has tumor; ink alternates between blue and green
    by cohort.
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
    """Draw the training slides of the demo's ensemble; returns the manifest path."""
    return build_cohort(Path(folder), fit_slides())


def brief_slides() -> tuple[DemoSlide, ...]:
    """Four small slides of two patients, each with one micrometastasis."""
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
    """The demo's recipe with one network, trained from random weights."""
    preset = read_preset("demo")
    (member,) = (m for m in preset["members"] if m["name"] == BRIEF_MEMBER)
    return merge(preset, BRIEF, {"members": [{**member, "weights": "random"}]})
