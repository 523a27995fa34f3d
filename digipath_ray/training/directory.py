"""Directory of a fit, on disk or in a bucket.

`digipath run --weights` accepts it directly.

recipe.toml  cohort.json  added.json  annotations.parquet  folds.parquet
samples/<id>.parquet
added/<id>.parquet
masks/<id>_overlay.jpg  <member>.safetensors  <member>.json
curves/<member>.csv  curves/<member>.png  curves/<member>_reliability.png
checkpoints/<member>/  scores.json  failures.parquet
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import tomli_w

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.difference import difference
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import Tree, parse_toml, to_tree
from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.storage import bucket
from digipath_ray.storage.files import (
    file_digest,
    is_url,
    place,
    publish,
    read_json,
    read_table,
    read_text,
)
from digipath_ray.training.added import added_digests
from digipath_ray.training.inputs import (
    Digests,
    changed_added,
    changed_slides,
    cohort_digests,
    may_be_mended,
    with_moved,
)
from digipath_ray.words import count


class FitDirectory(RunDirectory):
    """Directory of one fit."""

    FOLDERS = ("samples", "added", "masks", "curves", "checkpoints", "unread")

    @property
    def settings(self) -> Path:
        """Recipe of this fit."""
        return self.root / "recipe.toml"

    @property
    def cohort(self) -> Path:
        """Rows of the cohort as JSON."""
        return self.root / "cohort.json"

    @property
    def folds(self) -> Path:
        """FOLDS table."""
        return self.root / "folds.parquet"

    @property
    def annotations(self) -> Path:
        """ANNOTATIONS table."""
        return self.root / "annotations.parquet"

    @property
    def scores(self) -> Path:
        """Validation and test scores, as JSON."""
        return self.root / "scores.json"

    @property
    def checkpoints(self) -> Path:
        """Ray Train's storage, one folder per member."""
        return self.root / "checkpoints"

    def samples(self, slide_id: str) -> Path:
        """SAMPLES table of one slide."""
        return self.root / "samples" / f"{slide_id}.parquet"

    def added(self, slide_id: str) -> Path:
        """SAMPLES table of additional patches, for training only."""
        return self.root / "added" / f"{slide_id}.parquet"

    @property
    def added_files(self) -> Path:
        """Digests of the files that the fit is made from, as JSON."""
        return self.root / "added.json"

    def weights(self, member: str) -> Path:
        """Weights of a member; its card is next to it, and written last."""
        return self.root / f"{member}.safetensors"

    def best(self, member: str) -> Path:
        """Best weights of a member so far."""
        return self.checkpoints / f"{member}.best.safetensors"

    def stopped(self, member: str) -> Path:
        """Error of a member's fit, if it stopped."""
        return self.root / "curves" / f"{member}_stopped.json"

    def unusual(self, member: str) -> Path:
        """DRAWS of the batch at which a member's fit stopped."""
        return self.root / "curves" / f"{member}_stopped.parquet"

    def history(self, member: str) -> Path:
        """Measures of a member's epochs so far, as JSON."""
        return self.root / "curves" / f"{member}.json"

    def read_history(self, member: str) -> list[dict[str, Any]]:
        """Read the measures of a member's epochs."""
        rows = read_json(self.history(member))
        return cast(list[dict[str, Any]], rows)

    def read_tables(
        self, path_of: Callable[[str], Path], slide_ids: Sequence[str]
    ) -> list[pa.Table]:
        """Read a table of each slide: :meth:`samples` or :meth:`added`."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read_table, map(path_of, slide_ids)))

    def curve_table(self, member: str) -> Path:
        """Learning curves of a member, CSV."""
        return self.root / "curves" / f"{member}.csv"

    def curve_picture(self, member: str) -> Path:
        """Learning curves of a member, PNG."""
        return self.root / "curves" / f"{member}.png"

    def reliability_picture(self, member: str) -> Path:
        """Reliability of a member on its validation slides, PNG."""
        return self.root / "curves" / f"{member}_reliability.png"

    def create(self) -> None:
        """Create the directory; clear the marks of unreadable slides, to retry them."""
        super().create()
        for mark in self._marks():
            mark.unlink()

    def _marks(self) -> list[Path]:
        """Marks of slides with unreadable patches."""
        return sorted((self.root / "unread").glob("*.json"))

    def mark_unread(self, failure: Failure) -> None:
        """Mark a slide with an unreadable patch."""
        self.write_json(
            self.root / "unread" / f"{failure.slide_id}.json", vars(failure)
        )

    def read_unread(self) -> list[Failure]:
        """Read the marks of slides with unreadable patches."""
        return [Failure(**read_json(mark)) for mark in self._marks()]

    def accept(
        self, recipe: Recipe, rows: Sequence[SlideRow], *, overwrite: bool
    ) -> list[str]:
        """Record recipe, cohort and files, or compare them with the recorded ones.

        Files are the same by their content: where they lie does not count.

        Returns:
            What there is to say of files that have moved or could not be compared.

        Raises:
            RunError: the fit was started with others; the message lists the
                differences.
            ValueError: a file of additional patches is missing or invalid.
        """
        tree, cohort = to_tree(recipe), [row.columns() for row in rows]
        digests = added_digests(recipe, [row.slide_id for row in rows])
        digests |= cohort_digests(rows)
        notes: list[str] = []
        if overwrite:
            self.clear()
        elif self.settings.exists():
            changed, notes, before = self._compare(tree, cohort, digests)
            if changed:
                lines = "\n  ".join(changed)
                raise RunError(
                    f"{self.root} was started with another recipe or cohort:\n "
                    f" {lines}\nchoose another --out, or --overwrite to start over"
                )
            digests = before | digests  # a file that is not there now is known still
        with publish(self.settings) as path:
            path.write_text(tomli_w.dumps(tree), encoding="utf-8")
        self.write_json(self.cohort, cohort)
        self.write_json(self.added_files, digests)
        return notes

    def _compare(
        self, tree: Tree, cohort: Sequence[dict[str, Any]], now: Digests
    ) -> tuple[list[str], list[str], Digests]:
        """What differs from the fit as it was started, notes, and digests of then."""
        old = with_moved(parse_toml(read_text(self.settings)), tree)
        changed = difference(old, tree)
        before = self.read_digests()
        if self.added_files.exists():
            changed += changed_added(before, now)
        if not self.cohort.exists():
            return changed, [], before
        rows = read_json(self.cohort)
        mended = may_be_mended(self.read_failures())
        others, moved = changed_slides(rows, cohort, before, now, mended)
        notes = []
        if moved:
            files = count(len(moved), "file")
            notes.append(f"{files} under another path, of the same content")
        if not any(name.startswith("slide ") for name in before):
            notes.append(
                "started by a version that kept no digests: slides and annotations "
                "are taken to be the same by their paths"
            )
        return [*changed, *others], notes, before

    def read_digests(self) -> Digests:
        """Read the digests of the files that the fit is made from."""
        if not self.added_files.exists():
            return {}
        return cast(Digests, read_json(self.added_files))

    def digest(self) -> str:
        """Digest of recipe, cohort and files, and of where they lie."""
        parts = (self.settings, self.cohort, self.added_files)
        return " ".join(file_digest(path) for path in parts)

    def read_cohort(self) -> list[SlideRow]:
        """Read the rows of the cohort."""
        rows = read_json(self.cohort)
        return [SlideRow(**row) for row in rows]

    def clear(self) -> None:
        """Delete the results of an earlier fit."""
        for weights in list(self.root.glob("*.safetensors")):
            weights.with_suffix(".json").unlink(missing_ok=True)
            weights.unlink()
        for name in self.FOLDERS:
            self._empty(self.root / name)
        files = (self.cohort, self.added_files, self.annotations)
        for path in (self.settings, *files, self.folds, self.scores):
            path.unlink(missing_ok=True)

    @staticmethod
    def _empty(folder: Path) -> None:
        """Delete everything below a folder."""
        if not is_url(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            return
        objects = [place(found.url) for found in bucket.list_objects(folder)]
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(lambda path: path.unlink(missing_ok=True), objects):
                pass
