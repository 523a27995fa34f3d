"""What a fit adds to a slide's own patches: hard examples, and corrected regions.

They are chosen for being difficult, so a slide's own patches alone say what a member is
worth: added ones are fitted on, and never validated or tested on.
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
"""Patches of each kind that a frame gives, at most.

A region of 250 um holds 16 patches of 64 um (256 px at 0.25 um/px) side by side.
"""


def added_files(recipe: Recipe, slide_ids: Sequence[str]) -> dict[str, Path]:
    """Files that a fit takes hard examples and corrections from, by a name for each.

    Raises:
        ValueError: one is missing, not what it should be, was made for patches of
            another size, or is about a slide that is not in the cohort.
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
                f"hard examples {path}: found with {name} = {note[name]:g}, but the "
                f"fit has {value:g}: mine again, or fit as they were found"
            )
    unknown = sorted(set(table["slide_id"].to_pylist()) - set(slide_ids))
    if unknown:
        raise ValueError(
            f"hard examples {path}: {len(unknown)} of their slides are not in the "
            f"cohort, {unknown[0]!r} for one: give the cohort that was mined"
        )


def added_digests(recipe: Recipe, slide_ids: Sequence[str]) -> dict[str, str]:
    """Sha256 of each of :func:`added_files`."""
    files = added_files(recipe, slide_ids)
    return {name: file_digest(path) for name, path in files.items()}


def draw_added(
    row: SlideRow, annotated: AnnotatedSlide, tissue: Mask, recipe: Recipe
) -> pa.Table:
    """The SAMPLES that a slide gives besides its own: hard examples, then regions.

    Args:
        row: the slide.
        annotated: the same, open.
        tissue: its tissue.
        recipe: says which files there are.

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
    """A slide's hard examples with their tumor measured anew, exactly.

    They were found at a heatmap's scale, and corrections may have come since. Those
    without tumor are left out where nobody says that all tumor is annotated.
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
        log.warning("%s: %d hard examples without tumor left out", row.slide_id, lost)
    return table.filter(pa.array(kept))


def draw_in_frames(
    row: SlideRow,
    annotated: AnnotatedSlide,
    annotation: CorrectedAnnotation,
    tissue: Mask,
    *,
    recipe: Recipe,
) -> Iterator[pa.Table]:
    """SAMPLES of each corrected frame: up to FRAME_PATCHES of each kind.

    Centers lie inside the frame. Where the slide's annotation is not exhaustive, normal
    patches lie in it wholly, however they are moved: around it tumor may be unmarked.
    """
    spec = replace(
        recipe.sampling,
        tumor_per_slide=FRAME_PATCHES,
        normal_per_slide=FRAME_PATCHES,
    )
    # A stream of its own: corrections leave the slide's own draw as it is.
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
    """Which px of a mask over the slide have their center inside a polygon."""
    info, (rows, cols) = annotated.slide.info, mask.array.shape
    polygon = PolygonAnnotation.of(Outlines(tumor=[frame]), info)
    scale_x, scale_y = info.width / cols, info.height / rows
    return polygon.tumor(
        Window(0, 0, cols, rows, l0_per_px_x=scale_x, l0_per_px_y=scale_y)
    )


def _reach(annotated: AnnotatedSlide, recipe: Recipe) -> float:
    """How far a patch can reach from where it was drawn, level-0 px along an axis."""
    md = recipe.sampling.fit_patch_px / 2 + recipe.sampling.jitter_px
    return md * max(annotated.frame.l0_per_md_x, annotated.frame.l0_per_md_y)


def check_corrected(row: SlideRow, annotated: AnnotatedSlide) -> None:
    """Refuse corrections that draw tumor on a slide whose label is negative.

    Raises:
        SlideError: they do.
    """
    found = annotated.annotation
    if found is None or not row.is_negative or found.area_px == 0:
        return
    raise SlideError(
        f"its corrections draw tumor, yet its label is {row.label}",
        "give it another label, and an annotation if there is one",
    )
