"""Which patches a fit sees: points on slides, and the balanced draws of each epoch.

Points are drawn once on every slide: uniformly over its tumor, and over the rest of its
tissue. An epoch then draws equal numbers of both kinds, each moved anew within a disc.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digipath_ray.config.recipe import SamplingSpec
from digipath_ray.geometry import Frame, top_left_from_center
from digipath_ray.schema import DRAWS, SAMPLES
from digipath_ray.tissue.mask import Mask

TumorShare = Callable[[int, int], float]
"""Tumor as a fraction of the patch whose top-left corner is at a model px (x, y)."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Mask px [n, 2] (row, col) in which a patch's center may lie."""

    tumor: NDArray[np.int64]
    normal: NDArray[np.int64]


def find_candidates(
    tissue: Mask, tumor: NDArray[np.bool_], *, normal: bool
) -> Candidates:
    """Where patches of both kinds may lie.

    Args:
        tissue: the slide's tissue.
        tumor: bool [rows, cols] on the same px: whether a px holds any tumor.
        normal: whether tissue outside the tumor is known to be normal.
    """
    rest = tissue.array & ~tumor if normal else np.zeros_like(tumor)
    return Candidates(tumor=np.argwhere(tumor), normal=np.argwhere(rest))


def draw_samples(
    slide_id: str,
    candidates: Candidates,
    tissue: Mask,
    frame: Frame,
    tumor_share: TumorShare,
    *,
    spec: SamplingSpec,
    rng: np.random.Generator,
) -> pa.Table:
    """The SAMPLES table of a slide: patches with tumor, and patches without any.

    Args:
        slide_id: the slide.
        candidates: mask px for the centers, from which is drawn without replacement.
        tissue: what the candidates are px of.
        frame: the slide's model frame.
        tumor_share: exact, of a patch; a normal patch has none, a tumor patch some.
        spec: how many.
        rng: decides.
    """
    found = [
        _draw_kind(
            points, limit, tissue, frame, tumor_share, wanted=kind, spec=spec, rng=rng
        )
        for points, limit, kind in (
            (candidates.tumor, spec.tumor_per_slide, True),
            (candidates.normal, spec.normal_per_slide, False),
        )
    ]
    x, y, share, area = (np.concatenate(column) for column in zip(*found, strict=True))
    columns = {
        "slide_id": [slide_id] * len(x),
        "x": np.rint(x * frame.l0_per_md_x).astype(np.int64),
        "y": np.rint(y * frame.l0_per_md_y).astype(np.int64),
        "tumor": share.astype(np.float32),
        "area_mm2": area,
    }
    return pa.table(columns, schema=SAMPLES)


def _draw_kind(
    points: NDArray[np.int64],
    limit: int,
    tissue: Mask,
    frame: Frame,
    tumor_share: TumorShare,
    *,
    wanted: bool,
    spec: SamplingSpec,
    rng: np.random.Generator,
) -> tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]
]:
    """Model px x, y, tumor share and area stood for, of patches of one kind."""
    tried = 0
    kept: list[tuple[int, int, float]] = []
    for row, col in points[rng.permutation(len(points))]:
        tried += 1
        within = rng.random(2)
        center = (
            int((col + within[0]) * tissue.mpp_x / frame.mpp_x),
            int((row + within[1]) * tissue.mpp_y / frame.mpp_y),
        )
        x, y = top_left_from_center(center, spec.fit_patch_px)
        share = tumor_share(x, y)
        if (share > 0) == wanted:
            kept.append((x, y, share))
        if len(kept) == limit:
            break
    # What a patch stands for: the candidates' area, less the part found to be unfit.
    px_mm2 = tissue.mpp_x * tissue.mpp_y / 1e6
    area = len(points) * px_mm2 / max(tried, 1)
    table = np.array(kept, np.float64).reshape(-1, 3)
    x_y = table[:, :2].astype(np.int64)
    return x_y[:, 0], x_y[:, 1], table[:, 2], np.full(len(kept), area)


def is_tumor(samples: pa.Table) -> NDArray[np.bool_]:
    """Which samples hold tumor where they were drawn."""
    return np.asarray(samples["tumor"].to_numpy() > 0)


def epoch_length(samples: pa.Table, spec: SamplingSpec, batch_size: int) -> int:
    """Patches of an epoch, a multiple of the batch."""
    tumor = int(is_tumor(samples).sum())
    wanted = spec.epoch_patches or 2 * tumor
    return max(1, round(wanted / batch_size)) * batch_size


def draw_epoch(
    samples: pa.Table,
    *,
    epoch: int,
    patches: int,
    batch_size: int,
    jitter_px: float,
    seed: int,
) -> pa.Table:
    """The DRAWS of an epoch: in every batch, tumor and normal take turns.

    Any half of a batch that takes every other pair is balanced too. Each kind is gone
    through in a new order before any of it comes again.

    Args:
        samples: SAMPLES of the slides fitted on, of both kinds.
        epoch: counted from 0; each draws anew.
        patches: how many, a multiple of ``batch_size``.
        batch_size: even.
        jitter_px: radius of the disc in which centers move, uniformly, model px.
        seed: of the fit.

    Raises:
        ValueError: a kind is missing.
    """
    rng = np.random.default_rng([seed, epoch])
    tumor = is_tumor(samples)
    kinds = (np.flatnonzero(tumor), np.flatnonzero(~tumor))
    if not all(len(kind) for kind in kinds):
        raise ValueError(lacks_kind(int(tumor.sum()), len(tumor)))
    order = np.empty(patches, np.int64)
    for offset, kind in enumerate(kinds):
        order[offset::2] = _repeat(kind, len(order[offset::2]), rng)
    angle = rng.uniform(0, 2 * np.pi, patches)
    radius = jitter_px * np.sqrt(rng.random(patches))
    return _draws(
        samples.take(order),
        dx=np.rint(radius * np.cos(angle)).astype(np.int32),
        dy=np.rint(radius * np.sin(angle)).astype(np.int32),
        seed=rng.integers(0, 2**62, patches),
        batch=np.arange(patches) // batch_size,
    )


def lacks_kind(tumor: int, patches: int) -> str:
    """What to say of slides that do not give patches of both kinds."""
    if tumor == 0:
        return (
            f"none of {patches} patches holds tumor: give annotations of slides with "
            "tumor (column annotation of the manifest)"
        )
    return (
        f"all {patches} patches hold tumor: give negative slides (column label: "
        "negative), or exhaustive annotations (column exhaustive)"
    )


def _repeat(
    kind: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    rounds = -(-count // len(kind))
    orders = [rng.permutation(kind) for _ in range(rounds)]
    return np.concatenate(orders)[:count]


def draw_validation(
    samples: pa.Table, *, limit: int, batch_size: int, seed: int
) -> pa.Table:
    """The DRAWS a member is validated on: fixed, neither moved nor varied.

    Both kinds in as equal numbers as there are; the last batch is short.
    """
    rng = np.random.default_rng([seed, 1 << 32])
    tumor = is_tumor(samples)
    kinds = [rng.permutation(np.flatnonzero(kind)) for kind in (tumor, ~tumor)]
    chosen = [
        kind[: max(limit // 2, limit - len(other))]
        for kind, other in zip(kinds, kinds[::-1], strict=True)
    ]
    order = np.sort(np.concatenate(chosen))  # slide by slide
    none = np.zeros(len(order), np.int32)
    return _draws(
        samples.take(order),
        dx=none,
        dy=none,
        seed=np.full(len(order), -1),
        batch=np.arange(len(order)) // batch_size,
    )


def _draws(samples: pa.Table, **columns: NDArray[np.integer]) -> pa.Table:
    kept = {name: samples[name] for name in ("slide_id", "x", "y", "tumor", "area_mm2")}
    return pa.table({**kept, **columns}, schema=DRAWS)


def share_of(draws: pa.Table, *, rank: int, workers: int) -> pa.Table:
    """What one of several workers reads: every batch's part of it, balanced as it is.

    Pairs (tumor, normal) are dealt out in turn.
    """
    pair = np.arange(len(draws)) // 2
    return draws.filter(pa.array(pair % workers == rank))


def kept_slides(samples: Sequence[pa.Table]) -> pa.Table:
    """The samples of several slides as one table."""
    return pa.concat_tables([SAMPLES.empty_table(), *samples])
