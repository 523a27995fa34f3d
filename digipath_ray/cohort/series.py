"""DICOM files as slides: one per SeriesInstanceUID that holds levels of a slide.

A folder may hold several slides, and beside them labels, overviews, reports and
segmentations, all in files of any name. Which is which is in their headers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from digipath_ray.storage.dicom import (
    MAGIC_BYTES,
    DicomHeader,
    is_dicom,
    may_be_dicom,
    read_header,
)

UNKNOWN = ""
"""Series of the .dcm files whose header cannot be read: they fail when opened."""


@dataclass(frozen=True, kw_only=True)
class DicomFolder:
    """The DICOM files of one folder.

    Attributes:
        name: of the folder.
        slides: series -> its first level's file.
        series: file -> its series, of slides alone.
        others: how many files hold something else, by what that is.
        no_slides: these files.
    """

    name: str
    slides: Mapping[str, str]
    series: Mapping[str, str]
    others: Mapping[str, int] = field(default_factory=dict)
    no_slides: frozenset[str] = frozenset()

    def slide_of(self, file: str) -> str | None:
        """The first file of the slide that a file belongs to; None if to none."""
        return self.slides.get(self.series.get(file, "no series"))

    def slide_id(self, file: str) -> str:
        """The folder's name; with several slides in it also the first file's name.

        Args:
            file: first file of a slide, or one that belongs to none.
        """
        stem = Path(file).name.removesuffix(".dcm")
        if file not in self.slides.values():
            return stem
        return self.name if len(self.slides) == 1 else f"{self.name}_{stem}"


def sort_series(name: str, headers: Mapping[str, DicomHeader | None]) -> DicomFolder:
    """The slides among the DICOM files of a folder.

    Args:
        name: of the folder.
        headers: by file; None if it cannot be read.
    """
    levels: dict[str, list[str]] = defaultdict(list)
    series: dict[str, str] = {}
    others: Counter[str] = Counter()
    for file, header in headers.items():
        if header is not None and not header.is_slide:
            others[header.kind] += 1
            continue
        series[file] = header.series if header else UNKNOWN
        if header is None or header.is_level:
            levels[series[file]].append(file)
    return DicomFolder(
        name=name,
        slides={uid: min(files) for uid, files in levels.items()},
        series=series,
        others=others,
        no_slides=frozenset(headers.keys() - series.keys()),
    )


def look_in_folder(folder: Path) -> DicomFolder:
    """The DICOM files of a folder on a disk, hidden ones left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    files = [
        f
        for f in sorted(folder.iterdir())
        if not f.name.startswith(".") and f.is_file()
    ]
    headers = {}
    for file in files:
        header = _header(file)
        if header is not None or file.suffix.lower() == ".dcm":
            headers[str(file)] = header
    return sort_series(folder.name, headers)


def _header(file: Path) -> DicomHeader | None:
    if not may_be_dicom(file.name):
        return None
    try:
        return read_header(file)
    except OSError:  # said when it is opened
        return None


def is_dicom_file(file: Path) -> bool:
    """Whether a file is DICOM by its name, or by its first bytes if it has no suffix.

    A name that is a UID has no suffix either, though pathlib finds one.
    """
    if file.suffix.lower() == ".dcm":
        return True
    if not may_be_dicom(file.name) or not file.is_file():
        return False
    try:
        with file.open("rb") as opened:
            return is_dicom(opened.read(MAGIC_BYTES))
    except OSError:
        return False


class Folders:
    """The DICOM folders that have been looked into, each once."""

    def __init__(self, look: Callable[[Path], DicomFolder] = look_in_folder) -> None:
        self._look = look
        self._seen: dict[Path, DicomFolder] = {}

    def is_slide(self, file: Path) -> bool:
        """Whether a file is the first of a slide, in a folder looked into."""
        folder = self._seen.get(file.parent)
        return folder is not None and str(file) in folder.slides.values()

    def is_other(self, file: Path) -> bool:
        """Whether a file is DICOM of no slide, in a folder looked into."""
        folder = self._seen.get(file.parent)
        return folder is not None and str(file) in folder.no_slides

    def of(self, file: Path) -> DicomFolder:
        """The folder in which a file lies."""
        folder = file.parent
        if folder not in self._seen:
            self._seen[folder] = self._look(folder)
        return self._seen[folder]


def describe_skipped(folders: Iterable[DicomFolder]) -> str:
    """What DICOM files were no slides, in words; empty if all were."""
    total: Counter[str] = Counter()
    for folder in folders:
        total.update(folder.others)
    return ", ".join(f"{n} x {kind}" for kind, n in sorted(total.items()))
