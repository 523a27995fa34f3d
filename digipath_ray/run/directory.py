"""A run's directory, on a disk or in a bucket: its files by name, and who may write.

    run.toml  manifest.csv  ids.csv  slides.parquet  thumbnails/<id>.jpg  masks/<id>.png
    artifacts/<id>.png  artifacts/<id>.geojson
    patches/<id>.parquet  heatmaps/<id>.ome.tiff  overlays/<id>.png
    lesions/<id>.geojson  burden/<id>_viable.png  burden/<id>_whole.png  done/<id>.json
    outcomes.parquet  features.parquet  patients.parquet  failures.parquet
    metrics.json  status.json  report.html

``done/<id>.json`` is written last: a slide is finished when it exists; that of a slide
taken out of the run lies in ``dropped/``. The tables at
the top are compactions that can be made again from the files of the slides.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from digipath_ray import schema
from digipath_ray.config.difference import difference
from digipath_ray.config.toml import Tree, check_tree, parse_toml
from digipath_ray.run.failure import Failure, RunError, explain_os_error
from digipath_ray.run.record import DoneRecord
from digipath_ray.storage.files import (
    TEMPORARY,
    is_url,
    place,
    publish,
    read_bytes,
    read_rows,
    read_text,
)
from digipath_ray.storage.lease import Held, HeldByOther, hold

READERS = 16
"""Records read at once: a bucket takes its time with each."""


PRIVATE = (
    "ids.csv", "manifest.csv", "slides.parquet", "failures.parquet", "lease.json",
    "patches", "done", "dropped",
)  # fmt: skip
"""What holds paths of slides, or whom ids stand for: not to be shared."""


class RunDirectory:
    """The directory of one run."""

    FOLDERS: ClassVar[tuple[str, ...]] = (
        "thumbnails", "masks", "patches", "heatmaps", "overlays", "lesions", "done",
    )  # fmt: skip

    def __init__(self, root: str | Path) -> None:
        self.root = place(root)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.root)!r})"

    @property
    def settings(self) -> Path:
        """The config this run was made with."""
        return self.root / "run.toml"

    @property
    def manifest(self) -> Path:
        """The slides as they were asked for; ``digipath run`` takes it as a cohort."""
        return self.root / "manifest.csv"

    @property
    def pseudonyms(self) -> Path:
        """Whom hashed ids stand for, if there are any; not to be shared."""
        return self.root / "ids.csv"

    @property
    def slides(self) -> Path:
        """SLIDES table."""
        return self.root / "slides.parquet"

    @property
    def outcomes(self) -> Path:
        """OUTCOMES table."""
        return self.root / "outcomes.parquet"

    @property
    def features(self) -> Path:
        """FEATURES table."""
        return self.root / "features.parquet"

    @property
    def patients(self) -> Path:
        """PATIENTS table."""
        return self.root / "patients.parquet"

    @property
    def failures(self) -> Path:
        """FAILURES table."""
        return self.root / "failures.parquet"

    @property
    def metrics(self) -> Path:
        """Throughput per stage, as JSON."""
        return self.root / "metrics.json"

    @property
    def status(self) -> Path:
        """How far the run is, as JSON (:mod:`digipath_ray.run.status`)."""
        return self.root / "status.json"

    @property
    def report(self) -> Path:
        """What was found, as a page."""
        return self.root / "report.html"

    def thumbnail(self, slide_id: str) -> Path:
        """The slide at about 8 um/px."""
        return self.root / "thumbnails" / f"{slide_id}.jpg"

    def mask(self, slide_id: str) -> Path:
        """Tissue mask."""
        return self.root / "masks" / f"{slide_id}.png"

    def mask_overlay(self, slide_id: str) -> Path:
        """Tissue outline and grid points, for a person to check."""
        return self.root / "masks" / f"{slide_id}_overlay.jpg"

    def artifacts(self, slide_id: str) -> Path:
        """Kinds of artifacts at the tissue mask's pixels, if they were looked for."""
        return self.root / "artifacts" / f"{slide_id}.png"

    def artifact_outlines(self, slide_id: str) -> Path:
        """Outlines of the artifacts, for QuPath."""
        return self.root / "artifacts" / f"{slide_id}.geojson"

    def patches(self, slide_id: str) -> Path:
        """PATCHES table of one slide."""
        return self.root / "patches" / f"{slide_id}.parquet"

    def heatmap(self, slide_id: str) -> Path:
        """Heatmap and uncertainty maps."""
        return self.root / "heatmaps" / f"{slide_id}.ome.tiff"

    def overlay(self, slide_id: str) -> Path:
        """Heatmaps drawn over the slide."""
        return self.root / "overlays" / f"{slide_id}.png"

    def lesions(self, slide_id: str) -> Path:
        """Outlines of the lesions, for QuPath."""
        return self.root / "lesions" / f"{slide_id}.geojson"

    def class_outlines(self, slide_id: str) -> Path:
        """Outlines of the classes, for QuPath."""
        return self.root / "classes" / f"{slide_id}.geojson"

    def refined(self, slide_id: str) -> Path:
        """Mask of the tumor inside a refined outline."""
        return self.root / "refined" / f"{slide_id}.png"

    def viable(self, slide_id: str) -> Path:
        """Mask of the viable tumor that the burden counts."""
        return self.root / "burden" / f"{slide_id}_viable.png"

    def whole(self, slide_id: str) -> Path:
        """Mask of the whole tumor region that it is a part of."""
        return self.root / "burden" / f"{slide_id}_whole.png"

    def done(self, slide_id: str) -> Path:
        """Stands when the slide is finished."""
        return self.root / "done" / f"{slide_id}.json"

    def create(self) -> None:
        """Make the folders.

        Raises:
            RunError: the place cannot be written, or holds other files.
        """
        self._check_ours()
        try:
            if not is_url(self.root):
                for folder in self.FOLDERS:
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
            with publish(self.root / "writable") as probe:
                probe.write_bytes(bytes(1 << 20))
            (self.root / "writable").unlink()
        except OSError as e:
            raise self._unwritable(e) from e
        self.remove_unfinished()

    def remove_unfinished(self) -> None:
        """Remove what killed processes were writing; nobody else may be writing now."""
        if not is_url(self.root):
            for left_over in self.root.rglob(f"{TEMPORARY}*"):
                left_over.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[Held]:
        """Hold the directory, so that no other run writes to it.

        Raises:
            RunError: another run holds it.
        """
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(hold(self.root))
            except HeldByOther as e:
                raise RunError(
                    f"{self.root} is in use by {e.holder} ({e.fix}): wait for it, or "
                    "choose another --out"
                ) from e
            except OSError as e:
                raise self._unwritable(e) from e
            yield held

    def _unwritable(self, error: OSError) -> RunError:
        hint = explain_os_error(error)
        reason = error.strerror or error
        return RunError(f"cannot write to {self.root}: {reason}; {hint}")

    def _check_ours(self) -> None:
        """Refuse a folder with files where a run's would lie, that is no run."""
        if self.settings.exists():
            return
        for name in self.FOLDERS:
            folder = self.root / name
            if folder.is_dir() and any(folder.iterdir()):
                raise RunError(
                    f"{self.root} is no run directory, yet holds files in {name}/: "
                    "choose another --out"
                )

    def check_settings(
        self, tree: Tree, slide_ids: Sequence[str], *, overwrite: bool
    ) -> None:
        """Hold a config against the one recorded, if there is one.

        Raises:
            RunError: the directory was made with another config, and not all of its
                slides are to be made again; the difference is in the message.
        """
        if not self.settings.exists():
            return
        try:
            old = parse_toml(read_text(self.settings))
            check_tree(old)
        except ValueError as e:
            raise RunError(
                f"{self.settings}: damaged: {e}: choose another --out, or put it "
                "back as it was"
            ) from e
        self._check_change(difference(old, tree), slide_ids, overwrite=overwrite)

    def agree(self, tree: Tree, slide_ids: Sequence[str], *, overwrite: bool) -> None:
        """Record the run's config, in agreement with the one recorded before.

        Raises:
            RunError: see :meth:`check_settings`.
        """
        self.check_settings(tree, slide_ids, overwrite=overwrite)
        self.record_settings(tree, slide_ids, overwrite=overwrite)

    def record_settings(
        self, tree: Tree, slide_ids: Sequence[str], *, overwrite: bool
    ) -> None:
        """Write the config of this start, which was checked."""
        if overwrite:
            for slide_id in slide_ids:
                self.forget(slide_id)
        with publish(self.settings) as path:
            path.write_text(tomli_w.dumps(tree), encoding="utf-8")

    def _check_change(
        self, changed: Sequence[str], slide_ids: Sequence[str], *, overwrite: bool
    ) -> None:
        """Refuse a changed config unless all that was made with it is made again."""
        if not changed:
            return
        lines = "\n  ".join(changed)
        reason = f"{self.root} was made with another config:\n  {lines}\n"
        if not overwrite:
            raise RunError(
                f"{reason}choose another --out, or --overwrite to make its slides again"
            )
        others = self.read_done().keys() - set(slide_ids)
        if others:
            raise RunError(
                f"{reason}{len(others)} finished slides are not among those to be made "
                f"again, e.g. {min(others)}: name them too, or choose another --out"
            )

    def slide_files(self, slide_id: str) -> dict[str, Path]:
        """What is made of a slide before its ``done`` record: kind -> file."""
        return {
            "thumbnail": self.thumbnail(slide_id),
            "mask": self.mask(slide_id),
            "mask_overlay": self.mask_overlay(slide_id),
            "artifacts": self.artifacts(slide_id),
            "artifact_outlines": self.artifact_outlines(slide_id),
            "patches": self.patches(slide_id),
            "heatmap": self.heatmap(slide_id),
            "overlay": self.overlay(slide_id),
            "refined": self.refined(slide_id),
            "lesions": self.lesions(slide_id),
            "class_outlines": self.class_outlines(slide_id),
            "viable": self.viable(slide_id),
            "whole": self.whole(slide_id),
        }

    def forget(self, slide_id: str) -> None:
        """Remove what was made of a slide, its ``done`` record first."""
        made = self.slide_files(slide_id).values()
        for path in (self.done(slide_id), *made, self.dropped(slide_id)):
            path.unlink(missing_ok=True)

    def dropped(self, slide_id: str) -> Path:
        """Record of a slide that was finished and taken out of the run."""
        return self.root / "dropped" / f"{slide_id}.json"

    def drop(self, slide_id: str) -> None:
        """Take a finished slide out of the run; its files stay."""
        self._move(self.done(slide_id), self.dropped(slide_id))

    def take_back(self, slide_id: str) -> None:
        """Take a dropped slide into the run again, unless it is finished anew."""
        if self.done(slide_id).exists():
            return
        self._move(self.dropped(slide_id), self.done(slide_id))

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        """Move a small file, on a disk or in a bucket; nothing if it is not there."""
        if not source.exists():
            return
        with publish(target) as path:
            path.write_bytes(read_bytes(source))
        source.unlink()

    def dropped_ids(self) -> list[str]:
        """Ids of the slides that were taken out, sorted."""
        return sorted(p.stem for p in (self.root / "dropped").glob("*.json"))

    def finished_ids(self) -> list[str]:
        """Ids of the slides that have a ``done`` record, sorted."""
        return sorted(p.stem for p in (self.root / "done").glob("*.json"))

    def write_json(self, path: Path, value: Any) -> None:
        """Publish a JSON file."""
        with publish(path) as temporary:
            temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")

    def read_record(self, slide_id: str) -> DoneRecord:
        """The ``done`` record of a finished slide.

        Raises:
            FileNotFoundError: it is not finished.
            ValueError: its record is damaged.
        """
        path = self.done(slide_id)
        record = DoneRecord.from_text(read_text(path))
        if record.slide.slide_id != slide_id:
            raise ValueError(f"{path}: the record of {record.slide.slide_id!r:.100}")
        return record

    def write_record(self, record: DoneRecord) -> None:
        """Publish the ``done`` record of a slide: from now on it is finished."""
        with publish(self.done(record.slide.slide_id)) as path:
            path.write_text(record.to_text(), encoding="utf-8")

    def read_done(self) -> dict[str, DoneRecord]:
        """The finished slides: slide_id -> record; a damaged record is left out."""
        slide_ids = self.finished_ids()

        def read(slide_id: str) -> DoneRecord | None:
            with contextlib.suppress(ValueError):
                return self.read_record(slide_id)
            return None

        with ThreadPoolExecutor(READERS) as pool:
            records = dict(zip(slide_ids, pool.map(read, slide_ids), strict=True))
        return {i: record for i, record in records.items() if record is not None}

    def write_table(self, path: Path, rows: Sequence[Any], schema: pa.Schema) -> None:
        """Publish rows (dicts) as a Parquet table of a schema."""
        self.write_arrow(path, pa.Table.from_pylist(list(rows), schema=schema))

    def write_arrow(self, path: Path, table: pa.Table) -> None:
        """Publish a table as Parquet."""
        with publish(path) as temporary:
            pq.write_table(table, temporary)

    def write_failures(self, tried: Sequence[str], failures: Sequence[Failure]) -> None:
        """Write failures.parquet, with the failures of earlier starts that still hold.

        Args:
            tried: slides that this start was about; what it does not say of others, an
                earlier start's failures, stays.
            failures: those of this start.
        """
        over = {*tried, *self.read_done()}
        kept = [f for f in self.read_failures() if f.slide_id not in over]
        failed = [vars(f) for f in [*kept, *failures]]
        self.write_table(self.failures, failed, schema.FAILURES)

    def read_failures(self) -> list[Failure]:
        """The rows of failures.parquet."""
        if not self.failures.exists():
            return []
        rows = read_rows(self.failures, schema.FAILURES)
        return [Failure(**row) for row in rows]
