"""Additional training patches: hard examples and corrected regions.

They are selected for difficulty and would bias scores, so they are used for training
only, never for validation or test.
"""

import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from digipath_ray.annotations.annotation import PolygonAnnotation
from digipath_ray.annotations.corrected import CorrectedAnnotation, list_corrections
from digipath_ray.annotations.outlines import Outlines, Shape
from digipath_ray.annotations.window import Window
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.mining.examples import read_hard
from digipath_ray.schema import SAMPLES
from digipath_ray.slide.info import SlideError
from digipath_ray.storage.files import file_digest, place
from digipath_ray.tissue.mask import Bools, Mask
from digipath_ray.training.reader import AnnotatedSlide
from digipath_ray.training.sampling import Candidates, draw_samples

log = logging.getLogger(__name__)

FRAME_PATCHES = 32
"""Maximum patches of each kind per frame.

A region of 250 um holds 16 adjacent patches of 64 um (256 px at 0.25 um/px).
"""


def added_files(recipe: Recipe, slide_ids: Sequence[str]) -> dict[str, Path]:
    """Files of hard examples and corrections of a fit, by name.

    Raises:
        ValueError: a file is missing, invalid, for patches of another size, or of a
            slide that is not in the cohort.
    """
    files: dict[str, Path] = {}
    if recipe.sampling.hard_examples is not None:
        path = place(recipe.sampling.hard_examples)
        _check_hard(path, recipe, slide_ids)
        files["hard examples"] = path
    if recipe.sampling.extra_annotations is not None:
        found = list_corrections(recipe.sampling.extra_annotations, slide_ids)
        files |= {f"extra annotations {p.name}": p for p in found}
    return files


def _check_hard(path: Path, recipe: Recipe, slide_ids: Sequence[str]) -> None:
    table, note = read_hard(path)
    want = {"fit_patch_px": recipe.sampling.fit_patch_px, "mpp": recipe.grid.mpp}
    for name, value in want.items():
        if not math.isclose(note.get(name, value), value):
            raise ValueError(
                f"hard examples {path}: mined with {name} = {note[name]:g}, but the "
                f"fit has {value:g}: mine again, or change the fit"
            )
    unknown = sorted(set(table["slide_id"].to_pylist()) - set(slide_ids))
    if unknown:
        raise ValueError(
            f"hard examples {path}: {len(unknown)} of the slides are not in the "
            f"cohort, e.g. {unknown[0]!r}: give the cohort that was mined"
        )


def added_digests(recipe: Recipe, slide_ids: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each of :func:`added_files`."""
    files = added_files(recipe, slide_ids)
    return {name: file_digest(path) for name, path in files.items()}


def draw_added(
    row: SlideRow, annotated: AnnotatedSlide, tissue: Mask, recipe: Recipe
) -> pa.Table:
    """Draw the additional SAMPLES of a slide: hard examples, then regions.

    Args:
        row: the slide.
        annotated: the same slide, open.
        tissue: tissue of the slide.
        recipe: recipe with the paths of the files.

    Raises:
        ValueError: the hard examples cannot be read.
    """
    parts = [SAMPLES.empty_table()]
    if recipe.sampling.hard_examples is not None:
        path = place(recipe.sampling.hard_examples)
        parts.append(pick_hard(path, row, annotated, recipe))
    if isinstance(annotated.annotation, CorrectedAnnotation):
        parts += draw_in_frames(
            row, annotated, annotated.annotation, tissue, recipe=recipe
        )
    return pa.concat_tables(parts)


def pick_hard(
    path: Path, row: SlideRow, annotated: AnnotatedSlide, recipe: Recipe
) -> pa.Table:
    """Hard examples of a slide, with their tumor fraction remeasured exactly.

    They were mined at heatmap scale, and corrections may be newer. Those without tumor
    are dropped if the annotation is not exhaustive.
    """
    table, _ = read_hard(path)
    table = table.filter(pc.equal(table["slide_id"], row.slide_id))
    frame, side = annotated.frame, recipe.sampling.fit_patch_px
    x = np.rint(table["x"].to_numpy() / frame.l0_per_md_x).astype(int)
    y = np.rint(table["y"].to_numpy() / frame.l0_per_md_y).astype(int)
    share = np.array(
        [annotated.tumor_share(*xy, side) for xy in zip(x, y, strict=True)], np.float32
    )
    index = SAMPLES.get_field_index("tumor")
    table = table.set_column(index, SAMPLES.field(index), pa.array(share))
    kept = (share > 0) | row.gives_normal
    if not kept.all():
        lost = int((~kept).sum())
        log.warning("%s: dropped %d hard examples without tumor", row.slide_id, lost)
    return table.filter(pa.array(kept))


def draw_in_frames(
    row: SlideRow,
    annotated: AnnotatedSlide,
    annotation: CorrectedAnnotation,
    tissue: Mask,
    *,
    recipe: Recipe,
) -> Iterator[pa.Table]:
    """Draw SAMPLES of each corrected frame: up to FRAME_PATCHES of each kind.

    Centers are inside the frame. If the slide's annotation is not exhaustive, normal
    patches lie entirely inside even after jitter, because tumor outside may be
    unmarked.
    """
    spec = replace(
        recipe.sampling,
        tumor_per_slide=FRAME_PATCHES,
        normal_per_slide=FRAME_PATCHES,
    )
    # A separate random stream, so that corrections do not change the slide's own draw.
    rng = np.random.default_rng([recipe.fit.seed, zlib.crc32(row.slide_id.encode()), 1])
    on_mask = partial(_inside, annotated=annotated, mask=tissue)
    info = annotated.slide.info
    rows, cols = tissue.array.shape
    tumor = annotation.tumor_map(info.width / cols, info.height / rows)[:rows, :cols]
    for frame in shapely.get_parts(annotation.frames.geometry):
        room = frame
        if annotation.known and not row.gives_normal:
            room = shapely.buffer(frame, -_reach(annotated, recipe), join_style="mitre")
        candidates = Candidates(
            tumor=np.argwhere(on_mask(frame) & tumor),
            normal=np.argwhere(on_mask(room) & tissue.array & ~tumor),
        )
        yield draw_samples(
            row.slide_id,
            candidates,
            tissue,
            annotated.frame,
            partial(annotated.tumor_share, side=spec.fit_patch_px),
            spec=spec,
            rng=rng,
        )


def _inside(frame: Shape, *, annotated: AnnotatedSlide, mask: Mask) -> Bools:
    """Px of a mask over the slide whose center is inside a polygon."""
    info, (rows, cols) = annotated.slide.info, mask.array.shape
    polygon = PolygonAnnotation.of(Outlines(tumor=[frame]), info)
    scale_x, scale_y = info.width / cols, info.height / rows
    return polygon.tumor(
        Window(0, 0, cols, rows, l0_per_px_x=scale_x, l0_per_px_y=scale_y)
    )


def _reach(annotated: AnnotatedSlide, recipe: Recipe) -> float:
    """Maximum reach of a patch from its drawn center, level-0 px along an axis."""
    md = recipe.sampling.fit_patch_px / 2 + recipe.sampling.jitter_px
    return md * max(annotated.frame.l0_per_md_x, annotated.frame.l0_per_md_y)


def check_corrected(row: SlideRow, annotated: AnnotatedSlide) -> None:
    """Raise if corrections add tumor to a slide labeled negative.

    Raises:
        SlideError: corrections contain tumor, but the label is negative.
    """
    found = annotated.annotation
    if found is None or not row.is_negative or found.area_px == 0:
        return
    raise SlideError(
        f"corrections contain tumor, but the label is {row.label}",
        "change the label, and give the annotation if there is one",
    )
