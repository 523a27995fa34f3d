"""A cohort processed slide by slide in this process, without Ray.

For a few slides, and for tests. It neither resumes nor retries, and the first slide
that cannot be used ends it.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from digipath_ray.cohort.manifest import SlideRow, write_manifest
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.machine import processor_name
from digipath_ray.networks.seen_slides import read_exposure
from digipath_ray.outcome.tables import write_tables
from digipath_ray.pipeline.finish import finish_slide
from digipath_ray.pipeline.prepare import (
    grid_of,
    mark_seen,
    open_cohort_slide,
    prepare_slide,
)
from digipath_ray.pipeline.segment import PredictChunk, predict_chunks
from digipath_ray.run.checksums import seal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.patch_table import read_chunks
from digipath_ray.schema import SLIDES
from digipath_ray.storage.files import publish


def run_eagerly(
    run: RunDirectory,
    rows: Sequence[SlideRow],
    config: RunConfig,
    predict: PredictChunk,
) -> list[dict[str, Any]]:
    """Prepare, predict and finish every slide; rows of the OUTCOMES table.

    Args:
        run: an empty directory, which then has the files of a run on Ray.
        rows: the cohort.
        config: what to do; of ``compute`` only the chunk size and the precision are
            used, of which ``auto`` is float32.
        predict: the ensemble, from :func:`digipath_ray.networks.predict.load_ensemble`.

    Raises:
        SlideError: a slide cannot be used, or shows no tissue.
        ValueError: prediction is out of fold, which takes other members for each slide.
    """
    if config.ensemble.out_of_fold:
        raise ValueError("out_of_fold: needs a run on Ray")
    run.create()
    run.agree(to_tree(config), [row.slide_id for row in rows], overwrite=False)
    with publish(run.manifest) as path:
        write_manifest(rows, path)
    if config.compute.precision == "auto":
        config = replace(config, compute=replace(config.compute, precision="float32"))
    exposure = read_exposure(config.members)
    slides = [mark_seen(prepare_slide(row, config, run), exposure) for row in rows]
    run.write_table(run.slides, [slide.to_row() for slide in slides], SLIDES)
    for slide in slides:
        started = time.perf_counter()
        opened = open_cohort_slide(
            slide.path, slide.mpp, config, version=slide.version, digest=slide.digest
        )
        with opened:
            grid = grid_of(opened, config)
            cells = read_chunks(run, slide.slide_id, config)
            chunks = predict_chunks(
                opened, grid, cells, config, predict, stain=slide.normalized_from
            )
        seconds = time.perf_counter() - started
        finish_slide(
            run, slide, chunks, config, seconds=seconds, devices=[processor_name()]
        )
    run.write_failures([row.slide_id for row in rows], [])
    outcomes = write_tables(run, config).outcomes
    seal(run)
    return outcomes
