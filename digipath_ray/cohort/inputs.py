"""What the user named (files, folders, globs, manifests) as the rows of a cohort.

A slide whose file is missing stays a row: it fails on its own later, and the others go
on. What is wrong with the input itself is a ``ValueError`` before anything is opened.
"""

import glob
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from digipath_ray.cohort.manifest import (
    MANIFEST_SUFFIXES,
    Found,
    SlideRow,
    check_slide_id,
    read_manifest,
)
from digipath_ray.slide.open import IMAGE_SUFFIXES, SLIDE_SUFFIXES
from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url, place

__all__ = ["SlideRow", "read_cohort"]


def read_cohort(inputs: Sequence[str | Path]) -> list[SlideRow]:
    """The slides that the inputs name, in the order named, folders sorted by name.

    Each input is a slide file, a folder (searched recursively, hidden files left out),
    a glob, or a manifest (.csv, .tsv, .parquet); all but a glob may be in a bucket. A
    folder of .dcm files is one series and so one slide, called like the folder. A file
    named twice counts once.

    Raises:
        ValueError: an input matches nothing, a manifest is wrong, or two slides have
            one slide_id; the message names the thing and the fix.
        OSError: a bucket cannot be listed.
    """
    if not inputs:
        raise ValueError("no slides named: give files, folders, globs or a manifest")
    found: list[Found] = []
    files: dict[Path, Path] = {}
    for name in inputs:
        if is_url(name):
            found += _rows_in_bucket(place(name))
            continue
        path = place(name)
        if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            found += read_manifest(path)
            continue
        for file in _slide_files(path):
            if files.setdefault(file.resolve(), file) is file:
                found.append(_row_of_file(file))
    _check_ids(found)
    return [row for row, _ in found]


def _rows_in_bucket(path: Path) -> list[Found]:
    """The slides that a URL names: a slide, a manifest, or all below a folder."""
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path)
    if glob.has_magic(str(path)):
        raise ValueError(f"{path}: no pattern can be in a bucket: name the folder")
    if _is_slide_name(path):
        return [_row_of_file(path)]
    found = sorted(_search_bucket(path))
    if not found:
        raise ValueError(f"{path}: no slide below it: check bucket and folder")
    return [_row_of_file(place(url)) for url in found]


def _search_bucket(folder: Path) -> list[str]:
    """URLs of the slides below a folder of a bucket, however many objects there are."""
    slides: list[str] = []
    others: set[str] = set()  # folders of runs, and of the data of MRXS slides
    for found in bucket.list_objects(folder):
        names = found.url.removeprefix(str(folder)).strip("/").split("/")
        if names[-1] == "run.toml":
            others.add(found.url.removesuffix("/run.toml"))
        elif _is_slide_name(Path(names[-1])) and not any(
            name.startswith(".") for name in names
        ):
            slides.append(found.url)
    others |= {url[:-5] for url in slides if url.lower().endswith(".mrxs")}
    parts = tuple(url[:-4] for url in slides if url.lower().endswith((".vms", ".vmu")))
    kept: dict[str, str] = {}
    for url in slides:
        folders = accumulate(url.split("/")[:-1], "{}/{}".format)
        part = url.lower().endswith(".jpg") and url.startswith(parts)
        if part or not others.isdisjoint(folders):
            continue
        series = url.rpartition("/")[0] if url.lower().endswith(".dcm") else url
        kept[series] = min(url, kept.get(series, url))
    return list(kept.values())


def _slide_files(path: Path) -> list[Path]:
    """The slide files that one input names, absolute; at least one."""
    if path.is_dir():
        return _search_folder(path)
    if path.exists():
        return _one_per_series([path.absolute()])
    if not glob.has_magic(str(path)):
        raise ValueError(f"{path}: file or folder not found: check the spelling")
    matches = [Path(m) for m in sorted(glob.glob(str(path), recursive=True))]
    files = [m for m in matches if m.is_file() and _is_slide_name(m)]
    inside = [f for m in matches if m.is_dir() for f in _walk(m, set())]
    if not files and not inside:
        raise ValueError(f"{path}: the pattern matches no slide: check the spelling")
    return _one_per_series([f.absolute() for f in (*files, *inside)])


def _search_folder(folder: Path) -> list[Path]:
    """The slides below a folder; of an MRXS slide's data folder, that slide."""
    mrxs = _mrxs_of(folder)
    if mrxs.is_file():
        return [mrxs]
    files = _one_per_series([f.absolute() for f in _walk(folder, set())])
    if files:
        return files
    names = sorted(f.name for f in folder.iterdir())
    manifests = [n for n in names if n.lower().endswith(MANIFEST_SUFFIXES)]
    fix = "name " + " or ".join(manifests) if manifests else "check the path"
    suffixes = " ".join(sorted({*SLIDE_SUFFIXES, *IMAGE_SUFFIXES}))
    raise ValueError(f"{folder}: no slide in this folder ({suffixes}): {fix}")


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Slide files below a folder, sorted; linked folders are followed, loops not."""
    real = folder.resolve()
    if real in seen or _mrxs_of(folder).is_file() or (folder / "run.toml").exists():
        return  # a run among the slides holds pictures of them
    seen.add(real)
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    # Hamamatsu's slides are a .vms and JPEGs whose names begin like it.
    parts = tuple(p.stem for p in entries if p.suffix.lower() in (".vms", ".vmu"))
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, seen)
        elif entry.suffix.lower() == ".jpg" and entry.name.startswith(parts):
            continue
        elif _is_slide_name(entry):
            yield entry


def _mrxs_of(folder: Path) -> Path:
    """The .mrxs file whose data folder this would be."""
    folder = folder.absolute()
    return folder.parent / f"{folder.name}.mrxs"


def _is_slide_name(path: Path) -> bool:
    return path.suffix.lower() in (*SLIDE_SUFFIXES, *IMAGE_SUFFIXES)


def _one_per_series(files: Iterable[Path]) -> list[Path]:
    """Files with the .dcm of a folder reduced to its first."""
    kept: dict[Path, Path] = {}
    for file in files:
        if file.suffix.lower() == ".dcm":
            series = [f for f in file.parent.iterdir() if f.suffix.lower() == ".dcm"]
            shown = [f for f in series if not f.name.startswith(".")]
            file = min(shown, default=file)
        kept[file] = file
    return list(kept)


def _row_of_file(file: Path) -> Found:
    slide_id = file.parent.name if file.suffix.lower() == ".dcm" else file.stem
    fix = "rename it, or give it a slide_id in a manifest (columns slide_id,path)"
    check_slide_id(slide_id, where=str(file), fix=fix)
    return SlideRow(slide_id=slide_id, path=str(file)), str(file)


def _check_ids(found: Sequence[Found]) -> None:
    """Refuse two slides with one id."""
    first: dict[str, str] = {}
    for row, where in found:
        if row.slide_id in first:
            raise ValueError(
                f"slide_id {row.slide_id!r} twice: {first[row.slide_id]} and {where}: "
                "give each its own slide_id in a manifest (columns slide_id,path)"
            )
        first[row.slide_id] = where
