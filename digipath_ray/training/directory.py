"""The directory of a fit, on a disk or in a bucket.

`digipath run --weights` takes it as it stands.

recipe.toml  cohort.json  added.json  folds.parquet  samples/<id>.parquet
added/<id>.parquet
masks/<id>_overlay.jpg  <member>.safetensors  <member>.json
curves/<member>.csv  curves/<member>.png  curves/<member>_reliability.png
checkpoints/<member>/  scores.json  failures.parquet
"""

import json
import shutil
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import tomli_w

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import difference, to_tree
from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url, place, publish, read_table, read_text
from digipath_ray.training.added import added_digests


class FitDirectory(RunDirectory):
    """The directory of one fit."""

    FOLDERS = ("samples", "added", "masks", "curves", "checkpoints", "unread")

    @property
    def settings(self) -> Path:
        """The recipe this fit was made with."""
        return self.root / "recipe.toml"

    @property
    def cohort(self) -> Path:
        """The cohort's rows as JSON."""
        return self.root / "cohort.json"

    @property
    def folds(self) -> Path:
        """FOLDS table."""
        return self.root / "folds.parquet"

    @property
    def scores(self) -> Path:
        """Validation and test scores, as JSON."""
        return self.root / "scores.json"

    @property
    def checkpoints(self) -> Path:
        """Ray Train's storage: a folder per member."""
        return self.root / "checkpoints"

    def samples(self, slide_id: str) -> Path:
        """SAMPLES table of one slide."""
        return self.root / "samples" / f"{slide_id}.parquet"

    def added(self, slide_id: str) -> Path:
        """SAMPLES table of what is fitted on besides, and never validated on."""
        return self.root / "added" / f"{slide_id}.parquet"

    @property
    def added_files(self) -> Path:
        """Digests of the files that added patches are from, as JSON."""
        return self.root / "added.json"

    def weights(self, member: str) -> Path:
        """A member's weights; its card lies beside them, and is written last."""
        return self.root / f"{member}.safetensors"

    def best(self, member: str) -> Path:
        """A member's best weights so far."""
        return self.checkpoints / f"{member}.best.safetensors"

    def stopped(self, member: str) -> Path:
        """Why a member's fit stopped, if it did."""
        return self.root / "curves" / f"{member}_stopped.json"

    def unusual(self, member: str) -> Path:
        """DRAWS of the batch that a member's fit stopped at."""
        return self.root / "curves" / f"{member}_stopped.parquet"

    def history(self, member: str) -> Path:
        """What a member's epochs were worth so far, as JSON."""
        return self.root / "curves" / f"{member}.json"

    def read_history(self, member: str) -> list[dict[str, Any]]:
        """A member's epochs so far."""
        rows = json.loads(read_text(self.history(member)))
        return cast(list[dict[str, Any]], rows)

    def read_tables(
        self, path_of: Callable[[str], Path], slide_ids: Sequence[str]
    ) -> list[pa.Table]:
        """A table of each slide: :meth:`samples` or :meth:`added`."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read_table, map(path_of, slide_ids)))

    def curve_table(self, member: str) -> Path:
        """A member's learning curves as CSV."""
        return self.root / "curves" / f"{member}.csv"

    def curve_picture(self, member: str) -> Path:
        """A member's learning curves as a picture."""
        return self.root / "curves" / f"{member}.png"

    def reliability_picture(self, member: str) -> Path:
        """A member's reliability on its validation slides."""
        return self.root / "curves" / f"{member}_reliability.png"

    def create(self) -> None:
        """As :meth:`RunDirectory.create`; what could not be read may be by now."""
        super().create()
        for mark in self._marks():
            mark.unlink()

    def _marks(self) -> list[Path]:
        """The marks of slides of which a patch could not be read."""
        return sorted((self.root / "unread").glob("*.json"))

    def mark_unread(self, failure: Failure) -> None:
        """Leave a mark of a slide of which a patch could not be read."""
        self.write_json(
            self.root / "unread" / f"{failure.slide_id}.json", vars(failure)
        )

    def read_unread(self) -> list[Failure]:
        """The slides of which a patch could not be read."""
        return [Failure(**json.loads(read_text(mark))) for mark in self._marks()]

    def accept(
        self, recipe: Recipe, rows: Sequence[SlideRow], *, overwrite: bool
    ) -> None:
        """Record recipe and cohort, or hold them against what is recorded.

        Raises:
            RunError: the fit was begun with others; the difference is in the message.
            ValueError: as :func:`digipath_ray.training.added.added_files`.
        """
        tree, cohort = to_tree(recipe), [row.columns() for row in rows]
        added = added_digests(recipe, [row.slide_id for row in rows])
        if overwrite:
            self.clear()
        elif self.settings.exists():
            old = tomllib.loads(read_text(self.settings))
            changed = difference(old, tree) + self._changed_slides(cohort)
            changed += self._changed_files(added)
            if changed:
                lines = "\n  ".join(changed)
                raise RunError(
                    f"{self.root} was begun with another recipe or cohort:\n  {lines}\n"
                    "choose another --out, or --overwrite to fit anew"
                )
        with publish(self.settings) as path:
            path.write_text(tomli_w.dumps(tree), encoding="utf-8")
        self.write_json(self.cohort, cohort)
        self.write_json(self.added_files, added)

    def _changed_slides(self, cohort: list[dict[str, object]]) -> list[str]:
        """Slides that were added, left out or changed since the fit was begun."""
        if not self.cohort.exists():
            return []
        old = {row["slide_id"]: row for row in json.loads(read_text(self.cohort))}
        new = {str(row["slide_id"]): row for row in cohort}
        same = {k for k in old.keys() & new.keys() if old[k] == new[k]}
        return [f"slide {name}" for name in sorted((old.keys() | new.keys()) - same)]

    def _changed_files(self, new: dict[str, str]) -> list[str]:
        """Hard examples and corrections that are not what they were."""
        if not self.added_files.exists():
            return []
        old = json.loads(read_text(self.added_files))
        names = sorted(old.keys() | new.keys())
        return [name for name in names if old.get(name) != new.get(name)]

    def read_cohort(self) -> list[SlideRow]:
        """The cohort's rows."""
        rows = json.loads(read_text(self.cohort))
        return [SlideRow(**row) for row in rows]

    def clear(self) -> None:
        """Remove what an earlier fit has made."""
        for weights in list(self.root.glob("*.safetensors")):
            weights.with_suffix(".json").unlink(missing_ok=True)
            weights.unlink()
        for name in self.FOLDERS:
            self._empty(self.root / name)
        tables = (self.cohort, self.added_files, self.folds, self.scores)
        for path in (self.settings, *tables):
            path.unlink(missing_ok=True)

    @staticmethod
    def _empty(folder: Path) -> None:
        """Remove all that lies below a folder."""
        if not is_url(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            return
        objects = [place(found.url) for found in bucket.list_objects(folder)]
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(lambda path: path.unlink(missing_ok=True), objects):
                pass
