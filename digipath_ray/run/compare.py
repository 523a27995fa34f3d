"""Two finished runs side by side: what differs in their heatmaps and outcomes.

A run is its directory: ``heatmaps/<slide_id>.ome.tiff``, ``outcomes.parquet`` and
``failures.parquet``. Heatmaps of different scale are compared at the coarser one, by
area: a pixel there is the mean of what it covers.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from digipath_ray.config.classes import CLASS, WHOLE, kept_classes
from digipath_ray.heatmap.classes import likeliest
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.overlap import dice
from digipath_ray.schema import FAILURES, OUTCOMES, SLIDES, VERSION
from digipath_ray.storage.files import read_rows

NAMES = ("A", "B")


def _field(name: str, kind: pa.DataType, doc: str, *, null: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"doc": doc})


COMPARISON = pa.schema(
    [
        _field("slide_id", pa.string(), "the slide", null=False),
        _field("channel", pa.string(), "the map; null if there is none in both runs"),
        _field("max_abs_difference", pa.float64(), "largest |A - B| of a pixel"),
        _field("mean_abs_difference", pa.float64(), "mean |A - B| over the pixels"),
        _field("correlation", pa.float64(), "Pearson; null where a map is constant"),
        _field(
            "dice",
            pa.float64(),
            "of both areas above threshold, or where the class is likeliest; 1 if both "
            "empty",
        ),
        _field(
            "pixels", pa.int64(), "pixels compared: predicted in A, in B or in both"
        ),
        _field("mpp_x", pa.float64(), "um per px compared"),
        _field("mpp_y", pa.float64(), "um per px compared"),
        _field("tumor_mm2_a", pa.float64(), "A's area above its threshold, mm2"),
        _field("tumor_mm2_b", pa.float64(), "B's area above its threshold, mm2"),
        _field("note", pa.string(), "what to know; empty if nothing", null=False),
    ],
    metadata={"digipath_ray.schema": str(VERSION)},
)
"""One row per slide and channel of both runs; one row per slide of only one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a finished run says of its slides.

    Attributes:
        path: the run's directory.
        tumor_mm2: slide_id -> area, of each slide that was finished.
        failures: slide_id -> the step it failed at.
        digests: slide_id -> digest of its files, where the run kept it.
    """

    path: Path
    tumor_mm2: dict[str, float]
    failures: dict[str, str]
    digests: dict[str, str] = field(default_factory=dict)

    def heatmap_path(self, slide_id: str) -> Path:
        """Path of a slide's heatmap."""
        return self.path / "heatmaps" / f"{slide_id}.ome.tiff"

    def why_absent(self, slide_id: str) -> str:
        """Why the run has no heatmap of a slide."""
        if slide_id in self.failures:
            return f"failed there at step {self.failures[slide_id]}"
        return "its heatmap is missing there" if slide_id in self.tumor_mm2 else ""


def read_run(path: Path) -> Run:
    """A finished run's outcomes and failures.

    Raises:
        ValueError: the directory holds no finished slide.
    """
    outcomes = path / "outcomes.parquet"
    if not outcomes.is_file():
        raise ValueError(
            f"{path}: not a finished run, it has no outcomes.parquet: "
            "name the directory given to digipath run --out"
        )
    done = read_rows(outcomes, OUTCOMES, ["slide_id", "tumor_mm2"])
    if not done:
        raise ValueError(
            f"{path}: holds no finished slide: digipath segment {path} predicts what "
            "is prepared, failures.parquet says what could not be"
        )
    failures = path / "failures.parquet"
    failed: list[dict[str, Any]] = []
    if failures.is_file():
        failed = read_rows(failures, FAILURES, ["slide_id", "step"])
    return Run(
        path=path,
        tumor_mm2={row["slide_id"]: row["tumor_mm2"] for row in done},
        failures={row["slide_id"]: row["step"] for row in failed},
        digests=_read_digests(path / "slides.parquet"),
    )


def _read_digests(slides: Path) -> dict[str, str]:
    rows = read_rows(slides, SLIDES, ["slide_id", "digest"]) if slides.is_file() else []
    return {row["slide_id"]: d for row in rows if (d := row.get("digest")) is not None}


def compare_runs(a: Path, b: Path, *, threshold: float = 0.5) -> pa.Table:
    """Both runs' maps and tumor areas, slide by slide, as a :data:`COMPARISON` table.

    Args:
        a: directory of a finished run.
        b: directory of the other.
        threshold: probability from which a pixel counts for the Dice.

    Raises:
        ValueError: a directory holds no finished slide.
    """
    runs = read_run(a), read_run(b)
    slide_ids = sorted({s for run in runs for s in (*run.tumor_mm2, *run.failures)})
    rows = [row for s in slide_ids for row in _slide_rows(s, runs, threshold)]
    return pa.Table.from_pylist(rows, schema=COMPARISON)


def _slide_rows(
    slide_id: str, runs: tuple[Run, Run], threshold: float
) -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {"slide_id": slide_id}
    for run, name in zip(runs, NAMES, strict=True):
        row[f"tumor_mm2_{name.lower()}"] = run.tumor_mm2.get(slide_id)
    pair = [run.heatmap_path(slide_id) for run in runs]
    there = [
        slide_id in run.tumor_mm2 and path.is_file()
        for run, path in zip(runs, pair, strict=True)
    ]
    if not all(there):
        yield {**row, "note": _format_absent(slide_id, runs, there)}
        return
    a, b = (read_heatmap(path) for path in pair)
    for name in dict.fromkeys((*a.channels, *b.channels)):
        if name not in a.channels or name not in b.channels:
            only = NAMES[0] if name in a.channels else NAMES[1]
            yield {**row, "channel": name, "note": f"only in {only}"}
    for measured in compare_heatmaps(a, b, threshold):
        notes = filter(None, [_format_files(slide_id, runs), measured["note"]])
        yield {**row, **measured, "note": "; ".join(notes)}


def _format_files(slide_id: str, runs: tuple[Run, Run]) -> str:
    """What to say of a slide_id under which the runs read different files."""
    a, b = (run.digests.get(slide_id) for run in runs)
    if a is None or b is None or a == b:
        return ""
    return "not the same slide: A and B read files of different content"


def _format_absent(slide_id: str, runs: tuple[Run, Run], there: Sequence[bool]) -> str:
    parts = []
    for run, name, is_there in zip(runs, NAMES, there, strict=True):
        if not is_there:
            why = run.why_absent(slide_id)
            parts.append(f"not in {name}" + (f": {why}" if why else ""))
    return "; ".join(parts)


def compare_heatmaps(
    a: Heatmap, b: Heatmap, threshold: float
) -> Iterator[dict[str, Any]]:
    """One row of measures per channel that both heatmaps have."""
    a, b, note = on_one_grid(a, b)
    where = a.covered | b.covered
    kept = kept_classes(a.channels)
    same = bool(kept) and kept == kept_classes(b.channels)
    maps = (m for h in (a, b) if same and (m := likeliest(h)) is not None)
    classes = tuple(maps)
    for name in a.channels:
        left, right = a.channel(name), b.channel(name)
        if left is None or right is None:
            continue
        # NaN: not estimated there (epistemic uncertainty of a cascade).
        there = where & ~np.isnan(left) & ~np.isnan(right)
        measures = _measure(left[there], right[there])
        if name in ("probability", WHOLE) or name.startswith("member:"):
            above = left[there] >= threshold, right[there] >= threshold
            measures["dice"] = mask_dice(*above)
        elif same and name.startswith(CLASS):
            number = kept.index(name.removeprefix(CLASS)) + 1
            first, second = (m == number for m in classes)
            measures["dice"] = mask_dice(first, second)
        yield {
            "channel": name,
            "pixels": int(there.sum()),
            "mpp_x": a.mpp_x,
            "mpp_y": a.mpp_y,
            "note": note,
            **measures,
        }


def _measure(a: Map, b: Map) -> dict[str, float | None]:
    """Differences and correlation of the values [n] at the same pixels."""
    if a.size == 0:
        return {}
    difference = np.abs(a - b)
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    a64 -= a64.mean()
    b64 -= b64.mean()
    spread = math.sqrt(float(a64 @ a64) * float(b64 @ b64))
    return {
        "max_abs_difference": float(difference.max()),
        "mean_abs_difference": float(difference.mean(dtype=np.float64)),
        # A constant map's mean rounds, so its spread is tiny rather than 0.
        "correlation": float(a64 @ b64) / spread if np.ptp(a) and np.ptp(b) else None,
    }


def mask_dice(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Dice coefficient of two boolean arrays; 1 where both are empty."""
    both, first, second = (int(np.count_nonzero(m)) for m in (a & b, a, b))
    return dice(both, first, second)


def on_one_grid(a: Heatmap, b: Heatmap) -> tuple[Heatmap, Heatmap, str]:
    """Both heatmaps at the coarser scale, over their common extent, and what was done.

    The note is empty where they had the same grid already.
    """
    mpp = max(a.mpp_x, b.mpp_x), max(a.mpp_y, b.mpp_y)
    same = math.isclose(a.mpp_x, b.mpp_x, rel_tol=1e-6) and math.isclose(
        a.mpp_y, b.mpp_y, rel_tol=1e-6
    )
    if same and a.weight.shape == b.weight.shape:
        return a, b, ""
    um = [(h.width * h.mpp_x, h.height * h.mpp_y) for h in (a, b)]
    # A sliver beyond the last pixel is a float's rounding, not a pixel.
    width = max(1, math.ceil(min(um[0][0], um[1][0]) / mpp[0] - 1e-6))
    height = max(1, math.ceil(min(um[0][1], um[1][1]) / mpp[1] - 1e-6))
    notes = [] if same else [f"resampled to {mpp[0]:.4g} x {mpp[1]:.4g} um/px"]
    if any(abs(um[0][i] - um[1][i]) >= mpp[i] * (1 - 1e-6) for i in (0, 1)):
        sizes = " and ".join(f"{w:.4g} x {h:.4g} um" for w, h in um)
        notes.append(f"extents differ ({sizes}): compared where both are")
    resampled = [
        resample(h, width=width, height=height, mpp_x=mpp[0], mpp_y=mpp[1])
        for h in (a, b)
    ]
    return resampled[0], resampled[1], "; ".join(notes)


def resample(
    heatmap: Heatmap, *, width: int, height: int, mpp_x: float, mpp_y: float
) -> Heatmap:
    """The heatmap on a coarser grid of the same origin, each pixel its area's mean."""
    rows = box_weights(heatmap.height, height, mpp_y / heatmap.mpp_y)
    cols = box_weights(heatmap.width, width, mpp_x / heatmap.mpp_x)

    def shrink(plane: Map) -> Map:
        # csr @ dense from both sides: (cols @ (rows @ plane).T).T
        return np.asarray((cols @ (rows @ plane).T).T, np.float32)

    return Heatmap(
        channels=heatmap.channels,
        data=np.stack([shrink(plane) for plane in heatmap.data]),
        weight=shrink(heatmap.weight),
        mpp_x=mpp_x,
        mpp_y=mpp_y,
    )


def box_weights(old: int, new: int, scale: float) -> Any:
    """Sparse [new, old]: how much each old px counts in a new one of ``scale`` old px.

    Rows add up to 1, also where the last new px reaches beyond the old ones. Ours:
    skimage's block means need a whole scale, its resize blurs.
    """
    # The last new px may reach beyond the old ones: what is beyond counts nothing.
    edges = np.minimum(np.arange(new + 1) * scale, old)
    row, col, part = [], [], []
    for i, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
        inside = np.arange(int(start), min(math.ceil(stop), old))
        overlap = np.minimum(inside + 1, stop) - np.maximum(inside, start)
        # A sliver is a float's rounding; as a weight it would blend in a neighbor.
        kept = overlap > 1e-6
        row.append(np.full(int(kept.sum()), i))
        col.append(inside[kept])
        part.append(overlap[kept] / overlap[kept].sum())
    index = np.concatenate(row), np.concatenate(col)
    return csr_array((np.concatenate(part).astype(np.float32), index), (new, old))
