"""Run directories as a finished run leaves them, small and with known numbers."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from PIL import Image

from digipath_ray.config.toml import Tree, from_tree, merge, to_tree
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.lesions import find_lesions
from digipath_ray.outcome.staging import PatientStage
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.schema import FAILURES, OUTCOMES, PATIENTS, SLIDES
from digipath_ray.storage.files import file_digest
from digipath_ray.tissue.mask import Mask, write_mask

WIDTH, HEIGHT = 4000, 3000
"""Of every slide, px of 1 um at level 0."""
HEATMAP_MPP = 16.0
MEMBERS: list[Tree] = [
    {
        "name": name,
        "architecture": "Unet",
        "encoder": "densenet121",
        "weights": f"/weights/{name}.safetensors",
        "digest": digit * 64,
    }
    for name, digit in (("first", "a"), ("second", "b"))
]
GRID: Tree = {"mpp": 1.0, "patch_px": 256, "stride_px": 128, "downsample": 16}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished slide: round lesions (x, y, radius in um, probability) and columns.

    Attributes:
        slide_id: its name.
        lesions: where the heatmap is above 0.
        outcome: columns of OUTCOMES that are not the default.
        slide: columns of SLIDES that are not the default.
    """

    slide_id: str
    lesions: tuple[tuple[float, float, float, float], ...] = ()
    outcome: dict[str, Any] = field(default_factory=dict)
    slide: dict[str, Any] = field(default_factory=dict)


def write_run(
    root: Path,
    slides: Sequence[Made] = (),
    *,
    settings: Tree | None = None,
    failures: Sequence[Failure] = (),
    patients: Sequence[PatientStage] = (),
) -> RunDirectory:
    """A run directory with these slides finished."""
    run = RunDirectory(root)
    run.create()
    tree = merge({"grid": GRID, "members": MEMBERS}, settings or {})
    run.settings.write_text(tomli_w.dumps(to_tree(from_tree(tree))), "utf-8")
    outcomes = []
    for made in slides:
        heatmap = draw_heatmap(made)
        write_maps(run, made.slide_id, heatmap)
        record = done_record(made, heatmap)
        record["files"] = {"heatmap": file_digest(run.heatmap(made.slide_id))}
        run.write_json(run.done(made.slide_id), record)
        outcomes.append(record["outcome"])
    run.write_table(run.slides, [slide_row(made) for made in slides], SLIDES)
    run.write_table(run.outcomes, outcomes, OUTCOMES)
    run.write_table(run.failures, [vars(f) for f in failures], FAILURES)
    if patients:
        run.write_table(run.patients, [vars(p) for p in patients], PATIENTS)
    return run


def draw_heatmap(made: Made) -> Heatmap:
    """Disks of constant probability; nothing was predicted in the rightmost tenth."""
    shape = -(-HEIGHT // int(HEATMAP_MPP)), -(-WIDTH // int(HEATMAP_MPP))
    rows, cols = np.indices(shape)
    data = np.zeros((2, *shape), np.float32)
    for x, y, radius, p in made.lesions:
        away = np.hypot((cols + 0.5) * HEATMAP_MPP - x, (rows + 0.5) * HEATMAP_MPP - y)
        data[0][away <= radius] = p
    weight = np.ones(shape, np.float32)
    weight[:, -shape[1] // 10 :] = 0
    return Heatmap(
        channels=("probability", "epistemic"),
        data=data * (weight > 0),
        weight=weight,
        mpp_x=HEATMAP_MPP,
        mpp_y=HEATMAP_MPP,
    )


def write_maps(run: RunDirectory, slide_id: str, heatmap: Heatmap) -> None:
    """Its heatmap, its tissue (a rectangle 400 um off the edges) and its thumbnail."""
    run.heatmap(slide_id).parent.mkdir(exist_ok=True)
    write_heatmap(run.heatmap(slide_id), heatmap, name=slide_id)
    tissue = np.zeros((HEIGHT // 8, WIDTH // 8), np.bool_)
    tissue[50:-50, 50:-50] = True
    write_mask(run.mask(slide_id), Mask(array=tissue, mpp_x=8.0, mpp_y=8.0))
    thumbnail = np.full((*tissue.shape, 3), 245, np.uint8)
    thumbnail[tissue] = (205, 150, 190)
    Image.fromarray(thumbnail).save(run.thumbnail(slide_id), quality=90)


def done_record(made: Made, heatmap: Heatmap) -> dict[str, Any]:
    """The record of a slide; lesions that reach a probability of 0.7 are counted."""
    lesions = find_lesions(heatmap, 0.5).lesions
    listed = [{**asdict(lesion), "counted": lesion.max_p >= 0.7} for lesion in lesions]
    return {
        "outcome": outcome_row(made, heatmap, listed),
        "slide": slide_row(made),
        "features": None,
        "lesions": listed,
        "precision": "float32",
        "members": {member["name"]: member["digest"] for member in MEMBERS},
        "files": {"heatmap": hashlib.sha256(heatmap.probability.tobytes()).hexdigest()},
    }


def outcome_row(
    made: Made, heatmap: Heatmap, listed: list[dict[str, Any]]
) -> dict[str, Any]:
    counted = [lesion for lesion in listed if lesion["counted"]]
    told = slide_row(made)
    return {
        "slide_id": made.slide_id,
        "patient_id": told["patient_id"],
        "tumor_mm2": heatmap.area_mm2(0.5),
        "tissue_mm2": told["tissue_mm2"],
        "probability_max": float(heatmap.probability.max()),
        "lesions": len(listed),
        "largest_um": max((x["feret_um"] for x in counted), default=0.0),
        "score": max((x["max_p"] for x in counted), default=0.0),
        "unsure": 0.01,
        "epistemic_mean": 0.001,
        "epistemic_max": 0.02,
        "upsampled": False,
        "qc": told["qc"],
        "members": [member["name"] for member in MEMBERS],
        "patches": 100,
        "seconds": 1.5,
        **made.outcome,
    }


def slide_row(made: Made) -> dict[str, Any]:
    return {
        "slide_id": made.slide_id,
        "path": f"/slides/{made.slide_id}.tif",
        "patient_id": None,
        "width": WIDTH,
        "height": HEIGHT,
        "mpp_x": 1.0,
        "mpp_y": 1.0,
        "mpp_source": "file",
        "level_downsamples": [1.0, 4.0],
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
        "qc": [],
        **made.slide,
    }


def failure_of(slide_id: str, patient_id: str | None = None, **said: Any) -> Failure:
    """A slide that could not be read."""
    return Failure(
        **{
            "slide_id": slide_id,
            "path": f"/slides/{slide_id}.tif",
            "patient_id": patient_id,
            "step": "read",
            "attempt": 3,
            "error": "the file is cut short",
            "hint": "copy it again",
            **said,
        }
    )
