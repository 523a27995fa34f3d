"""What the product does with a file of each kind, as steps that are tried one by one.

A step returns something of the pixels that it read, or None. What one step refuses, the
next may still read: an ``info`` that finds no tissue says nothing of the tiles.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

# torch loads this at a network's first step, and makes a folder of its own with it.
import torch._inductor.config  # noqa: F401
from rich.console import Console

from digipath_ray.cli.annotation import describe_annotation
from digipath_ray.cli.info import describe
from digipath_ray.cli.remeasure import config_of
from digipath_ray.cli.report import report_run
from digipath_ray.cli.status import draw, look
from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.toml import (
    from_tree,
    load_config,
    merge,
    read_toml,
    recipe_from_tree,
    to_tree,
)
from digipath_ray.export import export_run
from digipath_ray.networks.card import read_card, write_card
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weights import load_member
from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.metastasis.model import load_stage_model
from digipath_ray.pipeline.finish import remeasure_slide
from digipath_ray.run.amended import amend_records, with_earlier
from digipath_ray.run.compare import compare_runs
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_run
from digipath_ray.run.identity import hold_against_files
from digipath_ray.run.patch_table import read_chunks, read_prepared
from digipath_ray.slide.open import open_slide
from digipath_ray.storage.files import file_digest
from digipath_ray.tissue.mask import read_mask_image
from digipath_ray.viewer.tiles.pool import SlidePool
from digipath_ray.viewer.tiles.slidetiles import Tiles
from tests.fuzz.slide_seeds import HEIGHT, WIDTH, mirax_files, section
from tests.fuzz.table_seeds import run_seeds
from tests.members import TINY, write_tiny
from tests.runs import SMALL
from tests.slides import write_pyramid
from tests.viewing import client, url_of

Step = tuple[str, Callable[[], object]]
"""A name, and what is done."""
WINDOW_PX = 512
"""Side of the squares that are read of a level at its first and last corner."""


class AnsweredError(Exception):
    """The viewer answered that it cannot show something, in these words."""


class Target:
    """Puts a mutant where the product looks for it, and lists the steps on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, name: str, number: int, data: bytes) -> Path:
        """Write a mutant under a name of its own; caches go by names."""
        stem, _, suffix = name.partition(".")
        path = self.folder / f"{stem}{number}.{suffix}"
        path.write_bytes(data)
        return path

    def steps(self, path: Path) -> Iterator[Step]:
        raise NotImplementedError

    def clear(self, path: Path) -> None:
        """Make the folder what it was before."""
        path.unlink(missing_ok=True)


class SlideTarget(Target):
    """``digipath info``, every level, the thumbnail and the viewer's tiles."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = from_tree(merge(SMALL, {"slide": {"slide_mpp": 0.5}}))

    def steps(self, path: Path) -> Iterator[Step]:
        row = SlideRow(slide_id="s", path=str(path))
        yield "levels", lambda: read_levels(path)
        yield "info", lambda: list(describe(row, self.config, mpp_given=True)) and None
        yield "thumbnail", lambda: thumbnail(path)
        yield "viewer", lambda: view_slide(row)
        if path.suffix != ".dcm":  # which is never a mask
            yield "mask", lambda: read_mask_image(path).any() and None


def read_levels(path: Path) -> bytes:
    """The first and last square of every level, as bytes."""
    with open_slide(path) as slide:
        squares = []
        for level, (width, height) in enumerate(slide.info.level_dimensions):
            w, h = min(width, WINDOW_PX), min(height, WINDOW_PX)
            for x, y in dict.fromkeys([(0, 0), (width - w, height - h)]):
                squares.append(slide.read_level(level, x, y, w, h).tobytes())
        return b"".join(squares)


def thumbnail(path: Path) -> None:
    with open_slide(path, mpp=0.5) as slide:
        slide.thumbnail(8.0)


def view_slide(row: SlideRow) -> None:
    """The viewer's coarsest and finest tiles, and its thumbnail."""
    pool = SlidePool(most=1)
    try:
        tiles = Tiles(pool)
        tiles.thumbnail(row)
        with pool.use(row) as tiled:
            levels = tiled.zoom.level_count
        for level in (0, levels - 1):
            tiles.tile(row, level, 0, 0)
    finally:
        pool.close()


class MiraxTarget(SlideTarget):
    """An MRXS slide of which one file is damaged."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files: dict[str, bytes] = {}

    def place(self, name: str, number: int, data: bytes) -> Path:
        self.files = self.files or mirax_files()
        here = self.folder / str(number)
        (here / "mirax").mkdir(parents=True)
        for other, whole in self.files.items():
            (here / other).write_bytes(data if other == name else whole)
        return here / "mirax.mrxs"

    def clear(self, path: Path) -> None:
        shutil.rmtree(path.parent)


class AnnotationTarget(Target):
    """``digipath info --annotation`` over one slide, with its picture."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        slide = write_pyramid(folder / "slide.tif", section(), mpp=0.5)
        self.slide = open_slide(slide)
        assert (self.slide.info.width, self.slide.info.height) == (WIDTH, HEIGHT)

    def steps(self, path: Path) -> Iterator[Step]:
        picture = self.folder / "picture.png"
        for name, spec in (
            ("annotation", AnnotationSpec()),
            ("mask above 0", AnnotationSpec(mask_above=0.0)),
        ):
            row = SlideRow(slide_id="s", path="slide.tif", annotation=str(path))
            yield name, lambda row=row, spec=spec: self._describe(row, spec, picture)

    def _describe(self, row: SlideRow, spec: AnnotationSpec, picture: Path) -> None:
        list(describe_annotation(row, self.slide, spec, picture=picture))


class ManifestTarget(Target):
    """A manifest as the cohort of a command."""

    def steps(self, path: Path) -> Iterator[Step]:
        yield "cohort", lambda: read_cohort([path]) and None


class TomlTarget(Target):
    """Settings of a run or a fit."""

    def steps(self, path: Path) -> Iterator[Step]:
        yield "run", lambda: from_tree(load_config(path=path)) and None
        yield "recipe", lambda: recipe_from_tree(load_config(path=path)) and None
        yield "resolve", lambda: resolve(load_config(path=path)) and None


class WeightsTarget(Target):
    """Weights and card of a member; of damaged weights the card has the digest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = write_tiny(folder / "whole")

    def place(self, name: str, number: int, data: bytes) -> Path:
        here = self.folder / str(number)
        here.mkdir()
        for path in (self.whole, self.whole.with_suffix(".json")):
            shutil.copy(path, here / path.name)
        (here / name).write_bytes(data)
        if name == self.whole.name:  # else the digest alone refuses it
            card = read_card(self.whole)
            digest = file_digest(here / name)
            write_card(here / name, replace(card, digest=digest))
        return here / self.whole.name

    def steps(self, path: Path) -> Iterator[Step]:
        yield "resolve", lambda: resolve({}, weights=path) and None
        yield "load", lambda: self._load(path)

    def _load(self, path: Path) -> None:
        load_member(replace(TINY, weights=str(path)))

    def clear(self, path: Path) -> None:
        shutil.rmtree(path.parent)


class StageModelTarget(Target):
    """A stage model, and the types that it predicts."""

    def steps(self, path: Path) -> Iterator[Step]:
        yield "load", lambda: self._predict(path)

    def _predict(self, path: Path) -> None:
        model = load_stage_model(path)
        model.predict([dict.fromkeys(FEATURES, 50.0)])


class RunTarget(Target):
    """A run's directory of which one file is damaged: all that reads it again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "run"
        self.whole = {self.root / name: s.data for name, s in run_seeds().items()}
        for path, data in self.whole.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.run = RunDirectory(self.root)
        self.config = from_tree(read_toml(self.run.settings))
        os.chdir(self.root)  # where its slide is

    def place(self, name: str, number: int, data: bytes) -> Path:
        path = self.root / name
        path.write_bytes(data)
        return path

    def steps(self, path: Path) -> Iterator[Step]:
        run, out = self.run, self.folder / "out"
        yield "status", lambda: draw(look(self.root)) and None
        yield "finished", lambda: self._read_finished()
        yield "report", lambda: report_run(silent(), self.root) and None
        yield "viewer", self._view
        yield "csv", lambda: export_run(run, out, format="csv") and None
        yield "geojson", lambda: export_run(run, out, format="geojson") and None
        yield "resumed", self._resume
        yield "compare", lambda: compare_runs(self.root, self.root) and None
        yield "remeasure", lambda: self._remeasure(merge_um=80.0)
        if path.parent.name in ("thumbnails", "heatmaps"):  # drawing takes a while
            yield "redraw", lambda: self._remeasure(threshold=0.4)

    def _read_finished(self) -> bytes:
        found = read_run(self.run)
        maps = [found.slide(slide_id) for slide_id in found.records]
        return b"".join(
            np.ascontiguousarray(array).tobytes()
            for slide in maps
            for array in (slide.heatmap.data, slide.heatmap.weight, slide.tissue)
        )

    def _view(self) -> None:
        """The requests that a page makes, answered without an internal error."""
        pages = client(self.run)
        for url in (
            "/api/cohort",
            "/api/export/csv",
            *(
                url_of("with", rest)
                for rest in (
                    "",
                    "/thumbnail.jpg",
                    "/maps/a/probability/0/0_0.png",
                    "/maps/a/epistemic/0/0_0.png",
                    "/maps/a/tissue/0/0_0.png",
                    "/values?x=1500&y=1500",
                    "/outlines/a.geojson",
                    "/export/geojson",
                    "/tiles/9/0_0.jpg",
                )
            ),
        ):
            said = pages.get(url)
            if said.status_code >= 500 and "image" not in said.headers["content-type"]:
                raise AnsweredError(said.text)

    def _resume(self) -> None:
        """What a start into this directory reads of earlier ones."""
        run, config = self.run, self.config
        run.agree(to_tree(config), [], overwrite=False)
        rows = with_earlier(run, read_cohort([run.manifest]))
        done, _ = hold_against_files(run, rows, run.read_done())
        amend_records(run, rows, done)
        for row in rows:
            if read_prepared(run, row, config) is not None:
                read_chunks(run, row.slide_id, config)
        run.write_failures([], [])

    def _remeasure(self, **outcome: float) -> None:
        """``digipath stage`` over the finished slides."""
        config = config_of(self.run, outcome)
        for record in self.run.read_done().values():
            remeasure_slide(self.run, record, config)

    def clear(self, path: Path) -> None:
        for whole, data in self.whole.items():
            if not whole.is_file() or whole.read_bytes() != data:
                whole.write_bytes(data)
        for other in self.root.rglob("*"):
            if other.is_file() and other not in self.whole:
                other.unlink()
        shutil.rmtree(self.folder / "out", ignore_errors=True)


def silent() -> Console:
    """A console that keeps what it is told."""
    return Console(file=io.StringIO(), width=100)
