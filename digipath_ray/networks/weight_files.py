"""Where weights are: files on this machine, and copies of those in a bucket.

Imports no torch, so that listing the members of a run is fast.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from digipath_ray.config.member import WEIGHTS_SUFFIXES
from digipath_ray.networks.onnx_file import read_header
from digipath_ray.storage import bucket
from digipath_ray.storage.files import (
    file_digest,
    is_url,
    place,
    publish,
    text_digest,
)

CACHE = Path("~/.cache/digipath_ray/weights")
"""Where weights that lie in a bucket are kept on this machine."""


def list_weights(url: str) -> list[str]:
    """URLs of the files of weights in a folder of a bucket, in order of their names.

    Raises:
        OSError: as :func:`digipath_ray.storage.bucket.explained`.
    """
    return sorted(
        found.url
        for found in bucket.list_objects(url)
        if found.url.endswith(WEIGHTS_SUFFIXES)
        and found.url.rpartition("/")[0] == str(place(url))
        and not found.url.rpartition("/")[2].startswith(".")
    )


def found_weights(named: str) -> list[str]:
    """The files that ``--weights`` names, in order of their names.

    Raises:
        ValueError: a folder without any.
        OSError: as :func:`list_weights`.
    """
    if named.endswith(WEIGHTS_SUFFIXES):
        return [named]
    if is_url(named):
        found = list_weights(named)
    else:
        path = Path(named).expanduser()
        # Hidden ones are leftovers of a system or of a broken copy.
        files = path.iterdir() if path.is_dir() else ()
        found = sorted(
            str(p)
            for p in files
            if p.name.endswith(WEIGHTS_SUFFIXES) and not p.name.startswith(".")
        )
        if not path.is_dir():
            return [named]  # weights_file raises with the reason
    if not found:
        raise ValueError(
            f"weights {named}: no {', '.join(WEIGHTS_SUFFIXES)} file in this directory"
        )
    return found


def fetch_weights(url: str) -> Path:
    """The local copy of weights and their card that lie in a bucket, fetched once.

    With an ONNX model its external data are fetched. Whoever asks holds the digest
    against the copy.

    Raises:
        ValueError: they or their card are not there.
        OSError: as :func:`digipath_ray.storage.bucket.explained`.
    """
    folder = CACHE.expanduser() / hashlib.sha256(url.encode()).hexdigest()[:16]
    stem, slash, name = url.rpartition("/")
    model, card = folder / name, f"{name.rpartition('.')[0]}.json"
    for wanted in (card, name):
        _fetch_part(url, stem + slash, wanted, folder)
    for wanted in external_files(model):
        _fetch_part(url, stem + slash, wanted, folder)
    return model


def _fetch_part(url: str, stem: str, name: str, folder: Path) -> None:
    try:
        _fetch(stem + name, folder, name)
    except FileNotFoundError as e:
        raise ValueError(f"weights {url}: {stem}{name} is missing") from e


def external_files(path: Path) -> tuple[str, ...]:
    """Files that belong to weights besides their own, relative to their folder.

    Raises:
        ValueError: it is called an ONNX model, and is none.
        OSError: it cannot be read.
    """
    return read_header(path).external if path.suffix == ".onnx" else ()


def weights_digest(path: Path) -> str:
    """SHA-256 of all files of weights, 64 hexadecimal digits.

    Of several files it is that of their own digests, a line each: the model's, then
    those of its external data in order of their names.

    Raises:
        ValueError: external data are missing; also as :func:`external_files`.
        OSError: a file cannot be read.
    """
    digests = [file_digest(path)]
    for name in external_files(path):
        try:
            digests.append(file_digest(path.parent / name))
        except FileNotFoundError as e:
            raise ValueError(
                f"weights {path}: its external data {name} are missing: copy them "
                "beside it, as the model was saved"
            ) from e
    return digests[0] if len(digests) == 1 else text_digest("\n".join(digests))


def fetch_encoder(url: str) -> Path:
    """The local copy of an encoder's weights that lie in a bucket, fetched once.

    Raises:
        ValueError: they are not there.
        OSError: as :func:`digipath_ray.storage.bucket.explained`.
    """
    folder = CACHE.expanduser() / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        return _fetch(url, folder)
    except FileNotFoundError as e:
        raise ValueError(f"encoder weights {url}: no such object") from e


def encoder_file(name: str) -> Path:
    """Resolve a file of encoder weights: a path, or PACKAGE/FILE of a Python package.

    Some packages on PyPI ship ImageNet weights, which also install on offline machines.
    An object in a bucket is copied to this machine.

    Raises:
        ValueError: none of them is there, saying what to do.
        OSError: as :func:`fetch_encoder`.
    """
    if is_url(name):
        return fetch_encoder(name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    package, _, inside = name.partition("/")
    found = find_spec(package) if package.isidentifier() else None
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    raise ValueError(
        f"encoder weights {name}: file not found, also not in an installed Python "
        "package: give the path of a .pth or .safetensors file, or pip install "
        f"{package.replace('_', '-')}"
    )


def _fetch(url: str, folder: Path, name: str | None = None) -> Path:
    """The copy of an object in a folder, fetched again if the object has changed."""
    version = bucket.head(url)
    local = folder / (name or url.rpartition("/")[2])
    kept = local.with_name(f"{local.name}.version")
    if local.exists() and kept.exists() and kept.read_text() == version.etag:
        return local
    with publish(local) as temporary:
        bucket.download(url, version, temporary)
    kept.write_text(version.etag)
    return local


def weights_file(weights: str | None) -> Path | None:
    """The file that a member's ``weights`` name, None if they name none.

    Raises:
        ValueError: it is of no known kind, saying how to convert it; a folder is not
            there; or as :func:`fetch_weights`.
    """
    if weights is None or weights in ("random", "imagenet"):
        return None
    known = weights.endswith(WEIGHTS_SUFFIXES)
    if is_url(weights) and known:
        return fetch_weights(weights)
    path = place(weights) if "://" in weights else Path(weights).expanduser()
    if path.suffix == "" and not path.exists():
        raise ValueError(
            f"weights {weights}: folder not found, and neither random nor imagenet"
        )
    if not known:
        raise ValueError(
            f"weights {weights}: neither random, imagenet nor a .safetensors, .onnx or "
            ".pt2 file; 'digipath import-weights' turns a .pth or .h5 file of weights "
            "into .safetensors; a whole network (TorchScript, a pickle) may hold code: "
            "load it where you trust it and save it by torch.onnx.export (.onnx) or "
            "torch.export.save (.pt2)"
        )
    return path
