"""What the user named (files, folders, globs, manifests) as the rows of a cohort.

A slide whose file is missing stays a row: it fails on its own later, and the others go
on. What is wrong with the input itself is a ``ValueError`` before anything is opened.
"""

import glob
import logging
from collections import Counter, defaultdict
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
from digipath_ray.cohort.series import (
    DicomFolder,
    Folders,
    describe_skipped,
    is_dicom_file,
    sort_series,
)
from digipath_ray.cohort.sheet import check_no_workbook
from digipath_ray.slide.open import IMAGE_SUFFIXES, SLIDE_SUFFIXES
from digipath_ray.slide.unreadable import UNSUPPORTED
from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import Listed
from digipath_ray.storage.dicom import may_be_dicom
from digipath_ray.storage.files import is_url, place
from digipath_ray.storage.series import beside, read_headers

__all__ = ["SlideRow", "read_cohort"]

log = logging.getLogger(__name__)


def read_cohort(inputs: Sequence[str | Path]) -> list[SlideRow]:
    """The slides that the inputs name, in the order named, folders sorted by name.

    Each input is a slide file, a folder (searched recursively, hidden files left out),
    a glob, or a manifest (.csv, .tsv, .parquet); all but a glob may be in a bucket. The
    DICOM files of one SeriesInstanceUID are one slide, called like their folder; of
    several in a folder each is called like the folder and its first file. A file named
    twice counts once.

    Raises:
        ValueError: an input matches nothing, a manifest is wrong, or two slides have
            one slide_id; the message names the thing and the fix.
        OSError: a bucket cannot be listed.
    """
    if not inputs:
        raise ValueError("no slides named: give files, folders, globs or a manifest")
    found: list[Found] = []
    files: dict[Path, Path] = {}
    folders = Folders()
    for name in inputs:
        check_no_workbook(Path(name))
        if is_url(name):
            found += _rows_in_bucket(place(name))
            continue
        path = place(name)
        if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            found += read_manifest(path)
            continue
        for file in _slide_files(path, folders):
            if files.setdefault(file.resolve(), file) is file:
                found.append(_row_of_file(file, _id_of(file, folders)))
    found = _without_others(found, folders)
    _check_ids(found)
    return [row for row, _ in found]


def _without_others(found: Sequence[Found], folders: Folders) -> list[Found]:
    """Rows without the DICOM files that lie beside a slide that is named too.

    So it is where a shell makes the names of ``*.dcm``. One that is named without its
    slide stays, and fails when it is opened.
    """
    slides = {
        Path(row.path).parent
        for row, _ in found
        if not is_url(row.path) and folders.is_slide(Path(row.path))
    }
    kept = []
    for row, where in found:
        path = Path(row.path)
        if not is_url(row.path) and path.parent in slides and folders.is_other(path):
            log.warning("%s: passed over, as it is not a whole slide image", path)
        else:
            kept.append((row, where))
    return kept


def _rows_in_bucket(path: Path) -> list[Found]:
    """The slides that a URL names: a slide, a manifest, or all below a folder."""
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path)
    if glob.has_magic(str(path)):
        raise ValueError(f"{path}: no pattern can be in a bucket: name the folder")
    if path.suffix.lower() == ".dcm":
        return [_row_in_series(str(path))]
    if _is_slide_name(path):
        return [_row_of_file(path, path.stem)]
    found = sorted(_search_bucket(path))
    if found:
        return [_row_of_file(place(url), slide_id) for url, slide_id in found]
    if may_be_dicom(path.name) and _is_object(path):
        return [_row_in_series(str(path))]
    raise ValueError(f"{path}: no slide below it: check bucket and folder")


def _is_object(path: Path) -> bool:
    try:
        bucket.head(path)
    except FileNotFoundError:
        return False
    return True


def _row_in_series(url: str) -> Found:
    """The slide of a DICOM object that was named by itself."""
    folder = _dicom_in_bucket(url.rpartition("/")[0], beside(url))
    file = folder.slide_of(url) or url
    return _row_of_file(place(file), folder.slide_id(file))


def _dicom_in_bucket(folder: str, objects: Iterable[Listed]) -> DicomFolder:
    headers = read_headers(objects)
    kept = {u: h for u, h in headers.items() if h or u.lower().endswith(".dcm")}
    return sort_series(folder.rpartition("/")[2], kept)


def _search_bucket(folder: Path) -> list[tuple[str, str]]:
    """URL and id of the slides below a folder of a bucket, however many objects."""
    slides: list[str] = []
    dicom: dict[str, list[Listed]] = defaultdict(list)  # by their folder
    others: set[str] = set()  # folders of runs, and of the data of MRXS slides
    suffixes: list[str] = []
    for found in bucket.list_objects(folder):
        names = found.url.removeprefix(str(folder)).strip("/").split("/")
        if names[-1] == "run.toml":
            others.add(found.url.removesuffix("/run.toml"))
        elif any(name.startswith(".") for name in names):
            continue
        elif may_be_dicom(names[-1]):
            dicom[found.url.rpartition("/")[0]].append(found)
        elif _is_slide_name(Path(names[-1])):
            slides.append(found.url)
        else:
            suffixes.append(Path(names[-1]).suffix.lower())
    _warn_of_unsupported(folder, suffixes)
    others |= {url[:-5] for url in slides if url.lower().endswith(".mrxs")}
    parts = tuple(url[:-4] for url in slides if url.lower().endswith((".vms", ".vmu")))

    def is_apart(folder_url: str) -> bool:
        folders = accumulate(folder_url.split("/"), "{}/{}".format)
        return others.isdisjoint(folders)

    kept = [
        (url, Path(url).stem)
        for url in slides
        if is_apart(url.rpartition("/")[0])
        and not (url.lower().endswith(".jpg") and url.startswith(parts))
    ]
    for inside, objects in dicom.items():
        if is_apart(inside):
            series = _dicom_in_bucket(inside, objects)
            kept += [(url, series.slide_id(url)) for url in series.slides.values()]
    return kept


def _slide_files(path: Path, folders: Folders) -> list[Path]:
    """The slide files that one input names, absolute; at least one."""
    if path.is_dir():
        return _search_folder(path, folders)
    if path.exists():
        return _one_per_slide([path.absolute()], folders, named=True)
    if not glob.has_magic(str(path)):
        raise ValueError(f"{path}: file or folder not found: check the spelling")
    matches = [Path(m) for m in sorted(glob.glob(str(path), recursive=True))]
    files = [m for m in matches if m.is_file() and _is_slide_file(m)]
    inside = [f for m in matches if m.is_dir() for f in _walk(m, set())]
    all_files = [f.absolute() for f in (*files, *inside)]
    found = _one_per_slide(all_files, folders, named=False)
    if not found:
        raise ValueError(f"{path}: the pattern matches no slide: check the spelling")
    return found


def _search_folder(folder: Path, folders: Folders) -> list[Path]:
    """The slides below a folder; of an MRXS slide's data folder, that slide."""
    mrxs = _mrxs_of(folder)
    if mrxs.is_file():
        return [mrxs]
    walked = [f.absolute() for f in _walk(folder, set())]
    files = _one_per_slide(walked, folders, named=False)
    if files:
        return files
    names = sorted(f.name for f in folder.iterdir())
    others = describe_skipped({f.parent: folders.of(f) for f in walked}.values())
    if others:
        raise ValueError(
            f"{folder}: no slide in this folder, but {others}: name the folder of the "
            "VL Whole Slide Microscopy Images"
        )
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
        elif _is_slide_file(entry):
            yield entry
    _warn_of_unsupported(folder, (e.suffix.lower() for e in entries if e.is_file()))


def _warn_of_unsupported(folder: Path, suffixes: Iterable[str]) -> None:
    """Say which slides of a folder no reader here knows."""
    counts = Counter(suffixes)
    for suffix in sorted(counts.keys() & UNSUPPORTED.keys()):
        log.warning(
            "%s: %d x %s passed over, which OpenSlide does not read: %s",
            folder,
            counts[suffix],
            suffix,
            UNSUPPORTED[suffix],
        )


def _mrxs_of(folder: Path) -> Path:
    """The .mrxs file whose data folder this would be."""
    folder = folder.absolute()
    return folder.parent / f"{folder.name}.mrxs"


def _is_slide_name(path: Path) -> bool:
    return path.suffix.lower() in (*SLIDE_SUFFIXES, *IMAGE_SUFFIXES)


def _is_slide_file(path: Path) -> bool:
    """Whether a file is a slide by its name, or DICOM by its first bytes."""
    return _is_slide_name(path) or is_dicom_file(path)


def _one_per_slide(
    files: Iterable[Path], folders: Folders, *, named: bool
) -> list[Path]:
    """Files with the DICOM of a slide reduced to its first level.

    Args:
        files: absolute.
        folders: looked into before.
        named: whether the user named each: then what is no slide is kept, to fail.
    """
    kept: dict[Path, Path] = {}
    for file in files:
        if is_dicom_file(file):
            slide = folders.of(file).slide_of(str(file))
            if slide is None and not named:
                continue
            file = Path(slide or file)
        kept[file] = file
    return list(kept)


def _id_of(file: Path, folders: Folders) -> str:
    return folders.of(file).slide_id(str(file)) if is_dicom_file(file) else file.stem


def _row_of_file(file: Path, slide_id: str) -> Found:
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
