"""What other stains cost a network on GlaS, and what normalization wins back.

    python -m tests.benchmarks.stains glas held.csv --fit glas.csv --weights FIT \\
        [MORE ...] [--images 20] --out FOLDER
    python -m tests.benchmarks.stains cost --weights FIT [--device cuda]

``held.csv``: images that the members never saw, with their masks (tests/benchmarks/
glas.py writes such tables); ``glas.csv``: those that they were fitted on among others,
from which the reference stains come if a member's card has none. Each folder of
``--weights`` is a column, so a member fitted with ``[augment] stain`` may stand beside
one without. Each image is unmixed by its own stains (Macenko's method), re-stained, and
goes through the whole pipeline as a picture: tissue, estimate, patches, heatmap.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import RunConfig, RunSlideSpec, Stain
from digipath_ray.config.toml import load_config
from digipath_ray.demo.cohort import demo_slides
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.networks.card import ModelCard, read_card
from digipath_ray.networks.chunk_pixels import to_device
from digipath_ray.networks.predict import EnsemblePredictor, load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.stains import normalize_on_device
from digipath_ray.patches import share_blocks
from digipath_ray.pipeline.prepare import find_slide_tissue, open_cohort_slide
from digipath_ray.pipeline.segment import segment_slide
from digipath_ray.pipeline.stains import find_stains
from digipath_ray.run.compare import mask_dice
from digipath_ray.stain.color import density
from digipath_ray.stain.estimate import (
    METHODS,
    StainError,
    StainEstimate,
    StainMethod,
    estimate_stains,
    median_estimate,
)
from digipath_ray.stain.fields import slide_stains
from digipath_ray.stain.normalize import map_stains
from tests.benchmarks.glas import print_head

Pixels = NDArray[np.uint8]
SHOWN: tuple[Stain, ...] = ("none", *METHODS)


@dataclass(frozen=True, kw_only=True)
class Restain:
    """Another laboratory: factors of both stains, turns in degrees, a gamma."""

    name: str
    hematoxylin: float = 1.0
    eosin: float = 1.0
    turn: float = 0.0
    gamma: float = 1.0


LABORATORIES = (
    Restain(name="as scanned"),
    Restain(
        name="x 1.6 and x 0.6, turned by 8 degrees, gamma 0.8",
        hematoxylin=1.6,
        eosin=0.6,
        turn=8.0,
        gamma=0.8,
    ),
    Restain(name="both stains x 1.6", hematoxylin=1.6, eosin=1.6),
    Restain(name="both stains x 0.6", hematoxylin=0.6, eosin=0.6),
    Restain(name="vectors turned by 8 degrees", turn=8.0),
    Restain(name="gamma 1.4", gamma=1.4),
    Restain(name="hematoxylin x 0.6, eosin x 1.6", hematoxylin=0.6, eosin=1.6),
)
"""The first two answer most: they are measured first."""


def restain(pixels: Pixels, own: StainEstimate, by: Restain, *, seed: int) -> Pixels:
    """Pixels [..., 3] as another laboratory would have stained and scanned them.

    Each vector is turned about a random axis, so that the two need not stay in their
    plane; what is of neither stain stays as much.
    """
    rng = np.random.default_rng(seed)
    rest = np.cross(*own.vectors)
    frame = np.stack([*own.vectors, rest / np.linalg.norm(rest)])
    amounts = density(pixels) @ np.linalg.inv(frame)
    amounts *= [by.hematoxylin, by.eosin, 1.0]
    turned = frame.copy()
    for i in range(2):
        turned[i] = turn(frame[i], by.turn, rng.normal(size=3))
    light = np.exp(-(amounts @ turned)) ** by.gamma
    return np.rint((256 * light - 1).clip(0, 255)).astype(np.uint8)


def turn(
    vector: NDArray[np.float64], degrees: float, towards: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A direction turned by an angle towards another; no light is added by it."""
    across = towards - (towards @ vector) * vector
    across /= np.linalg.norm(across)
    angle = np.radians(degrees)
    turned = np.cos(angle) * vector + np.sin(angle) * across
    turned = turned.clip(0)
    return np.asarray(turned / np.linalg.norm(turned))


def pick(rows: Sequence[SlideRow], wanted: int) -> list[SlideRow]:
    """As many images, patients and grades as in all."""
    order = sorted(rows, key=lambda r: (str(r.patient_id), r.is_negative, r.slide_id))
    places = np.linspace(0, len(order) - 1, min(wanted, len(order))).round()
    return [order[int(i)] for i in places]


def truth_of(row: SlideRow, shape: tuple[int, int], step: int) -> NDArray[np.bool_]:
    """Tumor at the heatmap's px: of more than half of what is under it."""
    if row.annotation is None:
        return np.zeros(shape, bool)
    mask = np.asarray(Image.open(row.annotation)) > 0
    padded = np.zeros((shape[0] * step, shape[1] * step), np.float32)
    padded[: mask.shape[0], : mask.shape[1]] = mask[: padded.shape[0]]
    blocks = padded.reshape(shape[0], step, shape[1], step)
    return np.asarray(blocks.mean(axis=(1, 3)) > 0.5)


def references(
    card: ModelCard, rows: Sequence[SlideRow], config: RunConfig
) -> dict[StainMethod, tuple[float, ...]]:
    """A member's reference stains: its card's, else the median of its images."""
    found = dict(card.stain)
    for method in METHODS:
        if method in found:
            continue
        each = []
        for row in (r for r in rows if r.slide_id in card.training_slides):
            with open_cohort_slide(row.path, row.mpp, config) as slide:
                _, tissue = find_slide_tissue(slide, config)
                try:
                    each.append(slide_stains(slide, tissue, method))
                except StainError:
                    continue
        found[method] = median_estimate(each).values
        print(f"{card.name}: {method} of {len(each)} images: {found[method]}")
    return found


@dataclass(frozen=True, kw_only=True)
class Column:
    """A set of members, as a run would take them for one way to normalize."""

    name: str
    stain: Stain
    config: RunConfig
    predict: Callable[..., object]


def columns(weights: Sequence[Path], fit: Path) -> Iterator[Column]:
    """Each set of members with each way to normalize."""
    rows = read_cohort([fit])
    grid = {"downsample": 4, "stride_px": 512}
    overrides = {"grid": grid, "ensemble": {"tta": ["identity"]}}
    for folder in weights:
        tree = load_config(preset="glas", overrides=overrides)
        plain = resolve(tree, weights=folder)
        cards = [read_card(str(m.weights)) for m in plain.members]
        known = [references(card, rows, plain) for card in cards]
        for stain in SHOWN:
            members = plain.members
            if stain != "none":
                members = tuple(
                    replace(m, stain_reference=own[stain])
                    for m, own in zip(members, known, strict=True)
                )
            slide = RunSlideSpec(**{**vars(plain.slide), "stain": stain})
            config = replace(plain, slide=slide, members=members)
            yield Column(
                name=folder.name,
                stain=stain,
                config=config,
                predict=load_ensemble(config),
            )


def score(row: SlideRow, path: Path, column: Column) -> tuple[float, bool]:
    """Dice (of a benign image the share called tumor), and whether it was normalized.

    Args:
        row: the image.
        path: of the picture in place of it.
        column: what predicts it.
    """
    config = column.config
    heatmap = segment_slide(path, config, column.predict, slide_mpp=0.62)  # type: ignore[arg-type]
    called = heatmap.probability >= config.outcome.threshold
    truth = truth_of(row, called.shape, config.grid.downsample)
    with open_cohort_slide(str(path), 0.62, config) as slide:
        _, tissue = find_slide_tissue(slide, config)
        stains = find_stains(slide, tissue, config)
    done = stains is not None and stains.usable is not None
    if row.is_negative:
        return float(called.mean()), done
    return float(mask_dice(called, truth)), done


def measure(asked: argparse.Namespace) -> None:
    """Print a row for each laboratory; write all numbers and a plot."""
    every_row = read_cohort([asked.cohort])
    told = [row for row in every_row if own_stains(row) is not None]
    rows = pick(told, asked.images)
    print(f"{len(every_row) - len(told)} images left out: stains cannot be told")
    sick = sum(not row.is_negative for row in rows)
    patients = len({row.patient_id for row in rows})
    print(f"{len(rows)} images ({sick} malignant) of {patients} patients")
    every = list(columns(asked.weights, asked.fit))
    several = len(asked.weights) > 1
    names = [f"{c.name}: {c.stain}" if several else c.stain for c in every]
    print_head("stains", *(f"`{name}`" for name in names))
    asked.out.mkdir(parents=True, exist_ok=True)
    lines, means = [], []
    for laboratory in LABORATORIES:
        with tempfile.TemporaryDirectory() as folder:
            pictures = {
                row.slide_id: write_restained(row, Path(folder), laboratory, seed=i)
                for i, row in enumerate(rows)
            }
            cells, dices = [], []
            for name, column in zip(names, every, strict=True):
                started = time.process_time()
                found = [score(r, pictures[r.slide_id], column) for r in rows]
                for row, (value, done) in zip(rows, found, strict=True):
                    grade = "benign" if row.is_negative else "malignant"
                    line = (laboratory.name, name, row.slide_id, grade, value, done)
                    lines.append(line)
                dice, area = (
                    np.mean(
                        [
                            v
                            for r, (v, _) in zip(rows, found, strict=True)
                            if r.is_negative == well
                        ]
                    )
                    for well in (False, True)
                )
                left = sum(not done for _, done in found)
                note = f", {left} left" if left and column.stain != "none" else ""
                cells.append(f"{dice:.3f} ({area:.1%}{note})")
                dices.append(float(dice))
                seconds = time.process_time() - started
                print(f"  {laboratory.name}, {name}: {seconds:.0f} CPU s", flush=True)
        print(f"| {laboratory.name} | {' | '.join(cells)} |", flush=True)
        means.append(dices)
    with (asked.out / "stains.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = ("laboratory", "column", "slide_id", "grade", "value", "normalized")
        writer.writerows([heads, *lines])
    plot(asked.out / "stains.png", every, means)


def own_stains(row: SlideRow) -> StainEstimate | None:
    """The stains of an image, at 1.9 um/px as a run samples it; None if unclear."""
    small = np.asarray(Image.open(row.path).convert("RGB").reduce(3))
    try:
        return estimate_stains(small.reshape(-1, 3), "macenko")
    except StainError:
        return None


def write_restained(row: SlideRow, folder: Path, by: Restain, *, seed: int) -> Path:
    """The image re-stained, as a PNG."""
    pixels = np.asarray(Image.open(row.path).convert("RGB"))
    own = own_stains(row)
    if by != LABORATORIES[0] and own is not None:
        pixels = restain(pixels, own, by, seed=seed)
    path = folder / f"{row.slide_id}.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


def plot(path: Path, every: Sequence[Column], means: Sequence[Sequence[float]]) -> None:
    """Dice of each laboratory: a color per normalization, filled from fit 2 on."""
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(len(means))
    fits = list(dict.fromkeys(column.name for column in every))
    for i, column in enumerate(every):
        number, color = fits.index(column.name), f"C{SHOWN.index(column.stain)}"
        axes.plot(
            [row[i] for row in means],
            places,
            "os^d"[number % 4],
            label=column.stain if len(fits) == 1 else f"{column.name}: {column.stain}",
            color=color,
            markerfacecolor="none" if number == 0 and len(fits) > 1 else color,
            markersize=7,
        )
    axes.set_yticks(places, [laboratory.name for laboratory in LABORATORIES])
    axes.invert_yaxis()
    axes.set_xlabel("mean Dice of malignant images")
    axes.grid(axis="x", color="#dddddd")
    figure.legend(frameon=False, fontsize=8, ncols=len(fits), loc="outside lower right")
    figure.savefig(path, dpi=110)


def measure_cost(asked: argparse.Namespace) -> None:
    """Print what normalizing takes of a member's time, for one chunk."""
    config = resolve(load_config(preset="glas"), weights=asked.weights)
    config = replace(config, ensemble=replace(config.ensemble, tta=("identity",)))
    cells = np.argwhere(np.ones((4, 4), bool)).astype(np.int32)
    blocks, index = share_blocks(cells, config.grid.blocks_per_side)
    side = config.grid.stride_px
    drawn, _ = draw_slide(demo_slides()[0])
    y, x = np.array(drawn.shape[:2]) // 2 - side // 2
    pixels = np.tile(drawn[y : y + side, x : x + side], (len(blocks), 1, 1, 1))
    member = config.members[:1]
    predictor = EnsemblePredictor(member, config, device=asked.device)
    stored = to_device(pixels, torch.device(asked.device))

    def seconds(work: Callable[[], object]) -> float:
        found = []
        for _ in range(asked.times + 1):
            if stored.is_cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            if stored.is_cuda:
                torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
        return float(np.median(found[1:]))

    predicting = seconds(lambda: predictor.predict(pixels, index))
    print(f"{len(index)} patches of {config.grid.patch_px} px: {predicting:.3f} s")
    for method in METHODS:
        own = estimate_stains(pixels.reshape(-1, 3), method)
        by = map_stains(own, own)
        took = seconds(lambda by=by: normalize_on_device(stored, by))  # type: ignore[misc]
        print(f"{method}: {took:.4f} s, {took / predicting:.2%} of it")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    glas = commands.add_parser("glas")
    glas.add_argument("cohort", type=Path)
    glas.add_argument("--fit", type=Path, required=True)
    glas.add_argument("--weights", type=Path, nargs="+", required=True)
    glas.add_argument("--images", type=int, default=20)
    glas.add_argument("--out", type=Path, required=True)
    cost = commands.add_parser("cost")
    cost.add_argument("--weights", type=Path, required=True)
    cost.add_argument("--device", default="cpu")
    cost.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    if asked.command == "glas":
        measure(asked)
    else:
        measure_cost(asked)


if __name__ == "__main__":
    main()
