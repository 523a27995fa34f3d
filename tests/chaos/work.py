"""What is struck: a run or a fit, when it is over, and what must be true then."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import tomli_w
from safetensors.torch import load_file

from digipath_ray.config.toml import Tree, merge
from digipath_ray.networks.card import read_card
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.digest import slide_digest
from digipath_ray.storage.files import TEMPORARY, file_digest
from digipath_ray.training.directory import FitDirectory
from tests.annotated import FIT, write_annotated_cohort
from tests.buckets import Bucket
from tests.chaos.checks import check_run, check_viewer
from tests.chaos.cohort import Cohort, build_cohort, fresh_copy, move_to_bucket

EPOCHS = 10
FIT_CHANGES: Tree = {
    "fit": {"epochs": EPOCHS, "restarts": 3, "workers": 1},
    "sampling": {"tumor_per_slide": 8, "normal_per_slide": 8},
    "members": [
        {
            "name": "a",
            "architecture": "tests.tiny:Tiny",
            "weights": "random",
            "options": {"width": 16, "norm": False, "seconds": 0.1},
        }
    ],
}
LOSS = 0.02
"""Relative difference of an epoch's loss that the order of sums may make."""


class Work(Protocol):
    """A command that is given again until it has nothing left to do.

    Attributes:
        arguments: of ``digipath``; the last is --out's.
        out: its directory.
        cohort: slides that faults may change.
        busy: kind of process that is there while networks are at work.
        by_steps: only a step that is finished tells that they are.
        bucket: where some slides are, if any.
    """

    arguments: list[str]
    out: Path
    cohort: Cohort
    busy: str
    by_steps: bool
    bucket: Bucket | None

    def steps(self) -> set[object]:
        """What is finished so far: slides, or epochs."""

    def is_over(self, code: int | None) -> bool:
        """Whether a command that ended with this code has nothing left to do."""

    def check(self) -> Iterator[str]:
        """Yield what is wrong when it is over."""


class RunWork:
    """``digipath run`` of a cohort."""

    busy = "member"
    by_steps = False

    def __init__(self, cohort: Cohort, out: Path, bucket: Bucket | None) -> None:
        self.cohort, self.out, self.bucket = cohort, out, bucket
        settings = ("--config", str(cohort.config), "--cpus", "2", "--out", str(out))
        self.arguments = ["run", str(cohort.manifest), *settings]

    def steps(self) -> set[object]:
        """Records of finished slides, each with the time of its writing."""
        found: set[object] = set()
        for path in (self.out / "done").glob("*.json"):
            try:
                found.add((path.name, path.stat().st_mtime_ns))
            except OSError:
                continue
        return found

    def is_over(self, code: int | None) -> bool:
        """Sick slides fail in each start: 1 is as good as it can end.

        A slide replaced after it was finished is seen by the next start.
        """
        if code != 1:
            return False
        done = RunDirectory(self.out).read_done()
        return all(
            name in done
            and (
                name in self.cohort.remote
                or done[name].slide.digest == slide_digest(path)
            )
            for name, path in self.cohort.healthy.items()
        )

    def check(self) -> Iterator[str]:
        """As :func:`check_run`, and what the viewer shows."""
        yield from check_run(self.cohort, self.out)
        yield from check_viewer(self.out)


class FitWork:
    """``digipath train`` of one small network."""

    busy = "fit-worker"
    by_steps = True
    bucket: Bucket | None = None

    def __init__(self, cohort: Cohort, out: Path, losses: list[float]) -> None:
        self.cohort, self.out, self._losses = cohort, out, losses
        self.arguments = [
            *("train", str(cohort.manifest), "--config", str(cohort.config)),
            *("--out", str(out)),
        ]

    def steps(self) -> set[object]:
        """Numbers of the epochs."""
        try:
            rows = FitDirectory(self.out).read_history("a")
        except (OSError, ValueError):
            return set()
        return {row["epoch"] for row in rows}

    def is_over(self, code: int | None) -> bool:
        """Its member has a card, and nobody has anything to say."""
        return code == 0 and (self.out / "a.json").exists()

    def check(self) -> Iterator[str]:
        """Each epoch once, with the loss of an undisturbed fit; weights whole."""
        rows = FitDirectory(self.out).read_history("a")
        epochs = [row["epoch"] for row in rows]
        if epochs != [*range(EPOCHS)]:
            yield f"epochs {epochs}"
        losses = [row["train_loss"] for row in rows]
        for epoch, (loss, wanted) in enumerate(zip(losses, self._losses, strict=False)):
            if abs(loss - wanted) > LOSS * wanted:
                yield f"epoch {epoch}: the loss is {loss}, undisturbed {wanted}"
        weights = self.out / "a.safetensors"
        if read_card(weights).digest != file_digest(weights) or not load_file(weights):
            yield "the weights are not those of their card"
        yield from (str(path) for path in self.out.rglob(f"{TEMPORARY}*"))


class Runs:
    """Makes runs of one cohort, each with slides of its own."""

    def __init__(self, folder: Path, slides: int, bucket: Bucket | None = None) -> None:
        """With a bucket some of the slides are moved there."""
        cohort = build_cohort(folder, slides)
        self._cohort = cohort if bucket is None else move_to_bucket(cohort)
        self._bucket = bucket

    def make(self, folder: Path, out: Path) -> Work:
        """A run with slides in ``folder``."""
        return RunWork(fresh_copy(self._cohort, folder), out, self._bucket)

    def learn(self, work: Work) -> None:
        """The truth of runs is known from the start."""


class Fits:
    """Makes fits of one cohort of annotated slides."""

    def __init__(self, folder: Path) -> None:
        write_annotated_cohort(folder / "slides")
        config = folder / "fit.toml"
        config.write_text(tomli_w.dumps(merge(FIT, FIT_CHANGES)), "utf-8")
        self._cohort = Cohort(
            folder=folder,
            manifest=folder / "slides" / "cohort.csv",
            config=config,
            healthy={},
            spare=[],
        )
        self._losses: list[float] = []

    def make(self, folder: Path, out: Path) -> Work:
        """A fit; its slides are not changed."""
        return FitWork(self._cohort, out, self._losses)

    def learn(self, work: Work) -> None:
        """Keep the losses of a fit that nothing has struck."""
        rows = FitDirectory(work.out).read_history("a")
        self._losses = [row["train_loss"] for row in rows]
