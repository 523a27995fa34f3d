"""Where weights are: files on this machine, and copies of those in a bucket.

Imports no torch, so that listing the members of a run is fast.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url, place, publish

CACHE = Path("~/.cache/digipath_ray/weights")
"""Where weights that lie in a bucket are kept on this machine."""


def list_weights(url: str) -> list[str]:
    """URLs of the safetensors files in a folder of a bucket, in order of their names.

    Raises:
        OSError: as :func:`digipath_ray.storage.bucket.explained`.
    """
    return sorted(
        found.url
        for found in bucket.list_objects(url)
        if found.url.endswith(".safetensors")
        and found.url.rpartition("/")[0] == str(place(url))
        and not found.url.rpartition("/")[2].startswith(".")
    )


def fetch_weights(url: str) -> Path:
    """The local copy of weights and their card that lie in a bucket, fetched once.

    Whoever asks holds the digest against the copy.

    Raises:
        ValueError: they or their card are not there.
        OSError: as :func:`digipath_ray.storage.bucket.explained`.
    """
    folder = CACHE.expanduser() / hashlib.sha256(url.encode()).hexdigest()[:16]
    card = url.removesuffix(".safetensors") + ".json"
    for remote in (card, url):
        try:
            local = _fetch(remote, folder)
        except FileNotFoundError as e:
            raise ValueError(f"weights {url}: {remote} is missing") from e
    return local


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


def _fetch(url: str, folder: Path) -> Path:
    """The copy of an object in a folder, fetched again if the object has changed."""
    version = bucket.head(url)
    local = folder / url.rpartition("/")[2]
    kept = local.with_name(f"{local.name}.version")
    if local.exists() and kept.exists() and kept.read_text() == version.etag:
        return local
    with publish(local) as temporary:
        bucket.download(url, version, temporary)
    kept.write_text(version.etag)
    return local


def weights_file(weights: str | None) -> Path | None:
    """The safetensors file that a member's ``weights`` name, None if they name none."""
    if weights is None or weights in ("random", "imagenet"):
        return None
    if is_url(weights) and weights.endswith(".safetensors"):
        return fetch_weights(weights)
    path = place(weights) if "://" in weights else Path(weights).expanduser()
    if path.suffix == "" and not path.exists():
        raise ValueError(
            f"weights {weights}: folder not found, and neither random nor imagenet"
        )
    if path.suffix != ".safetensors":
        raise ValueError(
            f"weights {weights}: neither random, imagenet nor a .safetensors file; "
            "'digipath import-weights' turns a .pth or .h5 file into one"
        )
    return path
