"""Slide and patient ids that do not say who: keyed digests of the names.

Hospitals name files after accession numbers, and those are few enough to try them all:
a plain digest would be turned back by guessing. An id is the HMAC-SHA256 (RFC 2104) of
the name with a secret that never leaves its owner. Of the name, not of the content: so
it is the same when the cohort moves, when a slide is scanned again and when a file is
missing, and costs no reading.
"""

import csv
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.storage.files import open_file

log = logging.getLogger(__name__)

SlideIds = Literal["name", "hash"]
SECRET = "DIGIPATH_ID_SECRET"
"""Environment variable: the secret itself."""
MIN_SECRET = 16
"""Characters that a secret has at least."""
DIGITS = 20
"""Hexadecimal digits of an id: two of a million names agree by chance once in 1e12."""
HASHED = re.compile(f"[sp]-[0-9a-f]{{{DIGITS}}}")
HIDDEN = "(path hidden)"
MIN_NAME = 4
"""Characters of a file's name from which it is looked for in texts."""
COLUMNS = ("id", "kind", "name", "path")


def is_hashed(name: str) -> bool:
    """Whether a slide_id or patient_id is one of ours."""
    return HASHED.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class Pseudonym:
    """An id and whom it stands for.

    Attributes:
        id: what results show.
        kind: slide or patient.
        name: slide_id or patient_id before.
        path: file of a slide; empty for a patient.
    """

    id: str
    kind: str
    name: str
    path: str = ""


def default_secret_file() -> Path:
    """Where the secret of this user is kept, unless another file is named."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "digipath_ray" / "id-secret"


def read_secret(file: Path | None = None) -> bytes:
    """The secret: of a file named, else of DIGIPATH_ID_SECRET, else the user's own.

    A file that does not exist is made, with 32 random bytes, for its owner alone.

    Raises:
        ValueError: the secret is too short, or others can read its file.
        OSError: its file cannot be read or made.
    """
    given = os.environ.get(SECRET)
    if file is None and given is not None:
        return _checked(given, f"${SECRET}")
    file = file or default_secret_file()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as new:
            new.write(f"{secrets.token_hex(32)}\n")
        log.warning("%s: made a new secret for ids: keep it, and back it up", file)
    if os.name == "posix" and file.stat().st_mode & 0o077:
        raise ValueError(f"{file}: others can read this secret: chmod 600 {file}")
    return _checked(file.read_text(encoding="utf-8"), str(file))


def _checked(text: str, where: str) -> bytes:
    if len(text.strip()) < MIN_SECRET:
        raise ValueError(
            f"{where}: a secret needs at least {MIN_SECRET} characters: make one with "
            "openssl rand -hex 32"
        )
    return text.strip().encode()


def hash_id(name: str, secret: bytes, *, kind: str) -> str:
    """The id of a name, ``s-`` or ``p-`` and 20 hexadecimal digits; ours stay.

    Args:
        name: a slide_id or a patient_id.
        secret: the key.
        kind: slide or patient: the same name gives two ids.
    """
    if is_hashed(name):
        return name
    digest = hmac.new(secret, f"{kind}\0{name}".encode(), hashlib.sha256)
    return f"{kind[0]}-{digest.hexdigest()[:DIGITS]}"


def hash_ids(
    rows: Sequence[SlideRow], secret: bytes
) -> tuple[list[SlideRow], list[Pseudonym]]:
    """Rows with hashed slide_id and patient_id, and who stands behind each."""
    hashed: list[SlideRow] = []
    known: dict[str, Pseudonym] = {}
    for row in rows:
        slide = hash_id(row.slide_id, secret, kind="slide")
        known[slide] = Pseudonym(
            id=slide, kind="slide", name=row.slide_id, path=row.path
        )
        patient = None
        if row.patient_id is not None:
            patient = hash_id(row.patient_id, secret, kind="patient")
            known[patient] = Pseudonym(id=patient, kind="patient", name=row.patient_id)
        hashed.append(replace(row, slide_id=slide, patient_id=patient))
    # A cohort whose ids are hashed already says nothing new.
    return hashed, [p for p in known.values() if p.id != p.name]


def write_pseudonyms(found: Iterable[Pseudonym], path: Path) -> None:
    """Write whom ids stand for, as a CSV for the owner's eyes alone where possible."""
    with path.open("w", newline="", encoding="utf-8") as file:
        path.chmod(0o600)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([[p.id, p.kind, p.name, p.path] for p in found])


def read_pseudonyms(path: Path) -> dict[str, Pseudonym]:
    """Whom ids stand for, by id."""
    with open_file(path) as raw:
        lines = raw.read().decode("utf-8").splitlines()
    return {row["id"]: Pseudonym(**row) for row in csv.DictReader(lines)}


# Texts


def hide_files(text: str, row: SlideRow) -> str:
    """A text about a slide without its files' paths and names, if its id is hashed."""
    return replace_names(text, names_of(row)) if is_hashed(row.slide_id) else text


def shown_path(path: object, slide_id: str) -> str:
    """A path for a message about a slide: itself, unless the slide's id is hashed."""
    return HIDDEN if is_hashed(slide_id) else str(path)


def names_of(row: SlideRow) -> dict[str, str]:
    """Every text that names a slide's files, and what to write for it."""
    names = {}
    for path in filter(None, (row.annotation, row.mask, row.path)):
        file = Path(path)
        names[str(file.parent)] = HIDDEN
        names |= dict.fromkeys((path, file.name, file.stem), row.slide_id)
    return names


def replace_names(text: str, names: Mapping[str, str]) -> str:
    """A text with whole names replaced, longer ones first.

    Names of less than MIN_NAME characters stay: they would be found in any text.
    """
    for name in sorted(names, key=len, reverse=True):
        if len(name) >= MIN_NAME and name in text:
            whole = rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"
            text = re.sub(whole, names[name].replace("\\", ""), text)
    return text
