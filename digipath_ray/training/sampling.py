"""Sampling of patches: points on slides, and balanced draws of each epoch.

Points are drawn once per slide, uniformly over its tumor and over the rest of its
tissue. An epoch then draws equal numbers of both kinds, each jittered within a disc.
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
"""Tumor fraction of the patch with its top-left corner at model px (x, y)."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Mask px [n, 2] (row, col) for patch centers."""

    tumor: NDArray[np.int64]
    normal: NDArray[np.int64]


def find_candidates(
    tissue: Mask, tumor: NDArray[np.bool_], *, normal: bool
) -> Candidates:
    """Find the candidates for patches of both kinds.

    Args:
        tissue: tissue of the slide.
        tumor: px that contain any tumor, bool [rows, cols] on the same grid.
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
    """Draw the SAMPLES table of a slide: patches with and without tumor.

    Args:
        slide_id: slide_id of the slide.
        candidates: mask px for the centers, drawn without replacement.
        tissue: mask of the candidates' px grid.
        frame: model frame of the slide.
        tumor_share: exact tumor fraction of a patch: 0 for normal, > 0 for tumor
            patches.
        spec: number of patches.
        rng: random generator.
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
    """Draw x, y (model px), tumor fraction and represented area of one kind."""
    tried = 0
    kept: list[tuple[int, int, float]] = []
    for row, col in points[rng.permutation(len(points))]:
        tried += 1
        # Anywhere in the mask px, which is many model px wide.
        within = rng.random(2)
        center = (
            int((col + within[0]) * tissue.mpp_x / frame.mpp_x),
            int((row + within[1]) * tissue.mpp_y / frame.mpp_y),
        )
        x, y = top_left_from_center(center, spec.fit_patch_px)
        share = tumor_share(x, y)
        # A candidate only says what is at the center; the whole patch decides.
        if (share > 0) == wanted:
            kept.append((x, y, share))
        if len(kept) == limit:
            break
    # Area represented per patch: the candidates' area without the rejected fraction.
    px_mm2 = tissue.mpp_x * tissue.mpp_y / 1e6
    area = len(points) * px_mm2 / max(tried, 1)
    table = np.array(kept, np.float64).reshape(-1, 3)
    x_y = table[:, :2].astype(np.int64)
    return x_y[:, 0], x_y[:, 1], table[:, 2], np.full(len(kept), area)


def is_tumor(samples: pa.Table) -> NDArray[np.bool_]:
    """Samples that contain tumor, bool [n]."""
    return np.asarray(samples["tumor"].to_numpy() > 0)


def epoch_length(samples: pa.Table, spec: SamplingSpec, batch_size: int) -> int:
    """Patches per epoch, a multiple of the batch size."""
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
    """Draw the DRAWS of an epoch; in every batch, tumor and normal alternate.

    Any half of a batch made of every other pair is balanced too. Each kind is permuted
    and exhausted before any sample repeats.

    Args:
        samples: SAMPLES of the training slides, of both kinds.
        epoch: epoch, from 0; each has its own draws.
        patches: number of patches, a multiple of ``batch_size``.
        batch_size: an even number.
        jitter_px: radius of the disc of uniform jitter of the centers, model px.
        seed: seed of the fit.

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
    # The square root makes the points uniform over the disc, not dense at its center.
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
    """Error text for slides without patches of both kinds."""
    if tumor == 0:
        return (
            f"none of {patches} patches contains tumor: add annotated slides with "
            "tumor (column annotation of the manifest)"
        )
    return (
        f"all {patches} patches contain tumor: add negative slides (column label: "
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
    """Draw the DRAWS for validation: fixed, without jitter or augmentation.

    Both kinds in numbers as equal as possible; the last batch may be short.
    """
    # A stream of its own, which no epoch uses.
    rng = np.random.default_rng([seed, 1 << 32])
    tumor = is_tumor(samples)
    kinds = [rng.permutation(np.flatnonzero(kind)) for kind in (tumor, ~tumor)]
    chosen = [
        # A kind with fewer than half leaves its places to the other.
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
    """Part of the draws for one of several workers, balanced like the whole.

    Pairs (tumor, normal) of each batch are dealt in turn.
    """
    pair = np.arange(len(draws)) // 2
    return draws.filter(pa.array(pair % workers == rank))


def kept_slides(samples: Sequence[pa.Table]) -> pa.Table:
    """Concatenate the samples of several slides."""
    return pa.concat_tables([SAMPLES.empty_table(), *samples])
