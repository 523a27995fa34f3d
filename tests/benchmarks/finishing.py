"""What it takes to finish a slide: seconds and memory of each step, on one core.

    python -m tests.benchmarks.finishing [--sides 25000 100000] [--before CHECKOUT]

The sums of a made slide of side x side px at 0.25 um/px (0.5 um/px with ``burden``),
as actors would send them (probability, two uncertainties and the weight): texture over
tissue on two fifths of the slide, a few large tumor regions and thousands of small
ones. The product's ``finish_slide`` stitches, writes, draws and measures them in a
process of its own, on one core. Its steps are timed and the highest memory in each is
told; what the process held before, its libraries and the sums, is the first row (in a
run the sums lie in the object store, which all processes share). Seconds are of the
core, so that other work beside it counts little; the last row has those of the clock.
``--before`` does the same, in turns, with the package of another checkout, and says
whether heatmap, lesions, measures and figure are still the same to the bit.
"""

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.config.toml import from_tree, load_config
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.outcome import measure
from digipath_ray.patches import Grid, cut_chunks, keep_cells, share_blocks
from digipath_ray.pipeline import finish
from digipath_ray.pipeline.chunk import ChunkSums, sum_chunk
from digipath_ray.run.directory import RunDirectory
from digipath_ray.tissue.mask import Mask, write_mask
from tests.records import record_of

PRESETS = {"stage": "camelyon17", "burden": "paip2019"}
STEPS: tuple[tuple[Any, str], ...] = (
    (finish, "stitch"),
    (finish, "write_heatmap"),
    (finish, "draw_slide"),
    (measure, "find_lesions"),
    (measure, "merge_lesions"),
    (measure, "measure_features"),
    (measure, "measure_burden"),
    (measure, "measure_maps"),
    (finish, "write_outcome"),
)
"""What is timed by its name, in the module that calls it."""
LARGE, SMALL_PER_MPX = 6, 120
"""Tumor regions of millimeters, and specks per million heatmap px of a slide."""
Plane = NDArray[np.float32]


def smooth_noise(shape: tuple[int, int], px: int, rng: np.random.Generator) -> Plane:
    """Values from 0 to 1 that change over about so many px."""
    coarse = rng.random([-(-n // px) + 3 for n in shape], np.float32)
    fine = ndimage.zoom(coarse, px, order=1)
    return np.asarray(fine[: shape[0], : shape[1]], np.float32)


def draw_tissue(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Three pieces with ragged borders, two fifths of the square."""
    field = smooth_noise((side, side), max(1, side // 40), rng)
    row, col = np.ogrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    pieces = ((0.3, 0.3, 0.27), (0.7, 0.35, 0.22), (0.55, 0.75, 0.24))
    near = [np.hypot(row - y, col - x) / radius for y, x, radius in pieces]
    return np.asarray(np.minimum.reduce(near) < 0.8 + 0.4 * field)


def draw_probability(tissue: NDArray[np.bool_], rng: np.random.Generator) -> Plane:
    """Texture below a fifth, with large and small regions of tumor in it."""
    side = len(tissue)
    plane = 0.02 + 0.16 * smooth_noise(tissue.shape, 5, rng)
    ragged = smooth_noise(tissue.shape, 9, rng)
    small = rng.lognormal(1.0, 0.5, SMALL_PER_MPX * side**2 // 10**6).clip(1, 12)
    large = rng.uniform(0.02, 0.09, LARGE) * side
    places = np.argwhere(tissue[::8, ::8]) * 8
    for radius in (*small, *large):
        y, x = places[rng.integers(len(places))]
        reach = int(radius * 1.5) + 1
        rows = slice(max(0, y - reach), y + reach + 1)
        cols = slice(max(0, x - reach), x + reach + 1)
        row, col = np.ogrid[rows, cols]
        row, col = row[: side - rows.start], col[:, : side - cols.start]
        apart = np.hypot(row - y, col - x) / radius + 0.5 * (ragged[rows, cols] - 0.5)
        bump = rng.uniform(0.6, 0.98) * (1.5 - apart).clip(0, 1)
        plane[rows, cols] = np.maximum(plane[rows, cols], bump)
    plane += 0.04 * (rng.random(plane.shape, np.float32) - 0.5)
    return np.asarray(plane.clip(0, 1) * tissue, np.float32)


def make_chunks(
    grid: Grid, probability: Plane, tissue: Mask, config: RunConfig
) -> list[ChunkSums]:
    """The sums that actors would send, of patches cut from the probability."""
    spec = grid.spec
    overhang = [spec.hm_patch + spec.hm_stride] * 2
    plane = np.pad(probability, [(0, n) for n in overhang])
    cells = keep_cells(grid, tissue)
    chunks = []
    for number, part in enumerate(
        cut_chunks(cells, chunk_cells=config.compute.chunk_cells)
    ):
        blocks, index = share_blocks(part, spec.blocks_per_side)
        corners = part * spec.hm_stride
        size = spec.hm_patch
        patches = np.stack([plane[y : y + size, x : x + size] for y, x in corners])
        spread = patches * (1 - patches)
        values = {
            "probability": patches,
            "aleatoric": spread * np.float32(0.1),
            "epistemic": spread * np.float32(0.25),
        }
        chunks.append(sum_chunk(values, blocks, index, number, config))
    return chunks


def make_config(outcome: str) -> RunConfig:
    members = tuple(MemberSpec(name=n, architecture="Unet") for n in ("one", "other"))
    over = {"ensemble": {"tta": ["identity", "hflip"]}}
    config = from_tree(load_config(preset=PRESETS[outcome], overrides=over))
    return replace(config, members=members)


def resident_mb(which: str) -> float:
    """VmRSS, or VmHWM: the highest since :func:`forget_peak`; MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"no {which}: this benchmark needs Linux")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def timed(name: str, step: Callable[..., Any], found: dict[str, list[float]]) -> Any:
    """The step, adding its seconds and its peak to what was found."""

    def run(*args: Any, **kwargs: Any) -> Any:
        row = found.setdefault(name, [0.0, 0.0])
        forget_peak()
        started = time.process_time()
        answer = step(*args, **kwargs)
        row[0] += time.process_time() - started
        row[1] = max(row[1], resident_mb("VmHWM"))
        return answer

    return run


def digest_made(run: RunDirectory, slide_id: str, row: dict[str, Any]) -> list[str]:
    """Digests of the heatmap's values, the lesions, the figure and the measures."""
    heatmap = read_heatmap(run.heatmap(slide_id))
    parts = [
        np.ascontiguousarray(heatmap.data).tobytes(),
        run.lesions(slide_id).read_bytes(),
        run.overlay(slide_id).read_bytes(),
        json.dumps(row, sort_keys=True).encode(),
    ]
    return [hashlib.sha256(part).hexdigest() for part in parts]


def finish_one(side: int, outcome: str) -> tuple[dict[str, list[float]], list[str]]:
    """Step -> seconds and peak MB of a made slide's end; and what it made."""
    config = make_config(outcome)
    mpp = config.grid.mpp
    record = record_of(
        width=side, height=side, mpp_x=mpp, mpp_y=mpp, level_downsamples=(1.0,)
    )
    record = replace(record, effective_mpp_x=mpp, effective_mpp_y=mpp)
    grid = record.grid(config.grid)
    rng = np.random.default_rng(0)
    tissue = draw_tissue(grid.hm_height, rng)
    mask = Mask(array=tissue, mpp_x=grid.hm_mpp[0], mpp_y=grid.hm_mpp[1])
    probability = draw_probability(tissue, rng)
    chunks = make_chunks(grid, probability, mask, config)
    # A process that Ray starts has not drawn the slide.
    del probability, tissue
    found = {"before": [0.0, resident_mb("VmRSS")]}
    with contextlib.ExitStack() as stack:
        run = RunDirectory(stack.enter_context(tempfile.TemporaryDirectory()))
        run.create()
        write_mask(run.mask(record.slide_id), mask)
        thumbnail = np.full((1400, 1400, 3), 240, np.uint8)
        Image.fromarray(thumbnail).save(run.thumbnail(record.slide_id))
        del mask, thumbnail
        for module, name in STEPS:
            step = timed(name, getattr(module, name), found)
            stack.enter_context(mock.patch.object(module, name, step))
        started, clock = time.process_time(), time.perf_counter()
        row = finish.finish_slide(run, record, chunks, config, seconds=0.0, devices=[])
        seconds, clock = time.process_time() - started, time.perf_counter() - clock
        peak = max(row[1] for row in found.values())
        found["all"] = [seconds, peak]
        found["all, by the clock"] = [clock, peak]
        size = run.heatmap(record.slide_id).stat().st_size
        found["heatmap's file"] = [0.0, size / 1e6]
        made = digest_made(run, record.slide_id, row)
    return found, made


def in_own_process(
    side: int, outcome: str, checkout: Path | None
) -> tuple[dict[str, list[float]], list[str]]:
    """:func:`finish_one` on one core, with the package of a checkout."""
    here = Path(__file__).parents[2]
    paths = [str(path) for path in (checkout, here) if path is not None]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env = {**os.environ, **one, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, __file__, "--sides", str(side), "--only", outcome]
    done = subprocess.run(
        [*command, "--inside"], env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    found, made = json.loads(done.stdout.splitlines()[-1])
    return found, made


def compare(side: int, outcome: str, before: Path | None, rounds: int) -> None:
    """Print the table of a slide, medians of the rounds."""
    checkouts = [None] if before is None else [before, None]
    taken: list[list[dict[str, list[float]]]] = [[] for _ in checkouts]
    digests = set()
    for _ in range(rounds):
        for runs, checkout in zip(taken, checkouts, strict=True):
            found, made = in_own_process(side, outcome, checkout)
            runs.append(found)
            digests.add(tuple(made))
    print(f"\n{side:,} x {side:,} px, {outcome}\n")
    columns = ["step", *(["s before", "MB before"] if before else []), "s", "MB"]
    print("| " + " | ".join([*columns, *(["times faster"] if before else [])]) + " |")
    print("|---" * (len(columns) + bool(before)) + "|")
    for name in taken[-1][0]:
        cells, seconds = [], []
        for runs in taken:
            rows = [found[name] for found in runs if name in found]
            seconds.append(statistics.median(r[0] for r in rows) if rows else 0.0)
            peak = max((r[1] for r in rows), default=0.0)
            cells += [f"{seconds[-1]:.2f}", f"{peak:.0f}"]
        if before:
            cells.append(f"{seconds[0] / seconds[1]:.1f}" if seconds[1] else "")
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    names = ("heatmap", "lesions", "figure", "measures")
    differ = [
        n
        for n, of in zip(names, zip(*digests, strict=True), strict=True)
        if len(set(of)) > 1
    ]
    print(f"\nnot the same every time: {', '.join(differ) or 'nothing'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--only", choices=tuple(PRESETS))
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for side in given.sides:
        for outcome in [given.only] if given.only else PRESETS:
            if given.inside:
                os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
                print(json.dumps(finish_one(side, outcome)))
            else:
                compare(side, outcome, given.before, given.rounds)


if __name__ == "__main__":
    main()
