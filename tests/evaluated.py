"""Finished runs written by hand, for the tests of scores: maps in, no networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from digipath_ray.config.toml import Tree, to_tree
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.tissue.mask import Mask, write_mask
from tests.records import done_of, record_of
from tests.runs import small_config

HM_MPP = 4.0
"""um per heatmap px: 4 model px of 1 um. A heatmap px is 4 px of level 0, too."""
Maps = Mapping[str, np.ndarray]


def write_run(
    folder: Path,
    slides: Mapping[str, Maps | np.ndarray],
    *,
    changes: Tree | None = None,
    patients: Mapping[str, str] | None = None,
) -> RunDirectory:
    """A run whose slides have these maps, by channel or the probability alone."""
    run = RunDirectory(folder)
    run.create()
    run.settings.write_text(tomli_w.dumps(to_tree(small_config(changes))))
    for slide_id, maps in slides.items():
        channels = maps if isinstance(maps, Mapping) else {"probability": maps}
        write_finished(
            run, slide_id, channels, patient_id=(patients or {}).get(slide_id)
        )
    return run


def write_finished(
    run: RunDirectory, slide_id: str, maps: Maps, *, patient_id: str | None
) -> None:
    """Heatmap, tissue (all of it) and record of a slide."""
    height, width = maps["probability"].shape
    heatmap = Heatmap(
        channels=tuple(maps),
        data=np.stack([np.asarray(m, np.float32) for m in maps.values()]),
        weight=np.ones((height, width), np.float32),
        mpp_x=HM_MPP,
        mpp_y=HM_MPP,
    )
    write_heatmap(run.heatmap(slide_id), heatmap, name=slide_id)
    tissue = Mask(array=np.ones((height, width), bool), mpp_x=HM_MPP, mpp_y=HM_MPP)
    write_mask(run.mask(slide_id), tissue)
    slide = record_of(
        slide_id,
        path=f"{slide_id}.tif",
        patient_id=patient_id,
        width=width * 4,
        height=height * 4,
        tissue_mm2=tissue.area_mm2,
        patches=1,
    )
    run.write_record(done_of(slide, members={}, outcome={"slide_id": slide_id}))


def plane(rows: int, cols: int, *parts: tuple[Any, float]) -> np.ndarray:
    """A map that is 0 but for some parts."""
    values = np.zeros((rows, cols), np.float32)
    for where, value in parts:
        values[where] = value
    return values
