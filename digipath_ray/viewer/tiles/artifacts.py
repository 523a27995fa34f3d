"""Artifacts of a slide as layers: a mask for each kind that it has."""

from collections.abc import Iterator
from dataclasses import dataclass

from digipath_ray.artifacts.file import read_artifacts
from digipath_ray.artifacts.kinds import KINDS
from digipath_ray.run.directory import RunDirectory
from digipath_ray.tissue.mask import Mask
from digipath_ray.viewer.collection.snapshot import Entry
from digipath_ray.viewer.tiles.layers import (
    At,
    Gray,
    Layer,
    MaskLevels,
    NoMap,
    cut_tile,
    mask_layer,
    mask_levels,
)
from digipath_ray.viewer.tiles.lru import LruCache

PREFIX = "artifact-"
"""Of the names of these layers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArtifactLevels:
    """Mask pyramids by kind, of those that the slide has."""

    kinds: dict[str, MaskLevels]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(levels.nbytes for levels in self.kinds.values())


class ArtifactMaps:
    """Artifacts of a collection's slides; thread-safe."""

    def __init__(self, *, most_bytes: int) -> None:
        self._maps: LruCache[ArtifactLevels] = LruCache(most_bytes, lambda m: m.nbytes)

    def layers(self, entry: Entry, run: str) -> Iterator[Layer]:
        """Yield a layer per kind.

        Raises:
            ValueError: the map is damaged.
            OSError: it cannot be read.
        """
        for kind, levels in self._levels(entry, run).kinds.items():
            yield mask_layer(entry, run, levels, name=f"{PREFIX}{kind}")

    def tile(self, entry: Entry, run: str, name: str, at: At) -> Gray:
        """A tile of a layer.

        Raises:
            NoMap: it does not exist.
            ValueError, OSError: as :meth:`layers`.
        """
        levels = self._levels(entry, run).kinds.get(name.removeprefix(PREFIX))
        if levels is None:
            raise NoMap(f"map not found: {run}/{name}")
        return cut_tile(levels, at, of=f"{run}/{name}")

    def _levels(self, entry: Entry, run: str) -> ArtifactLevels:
        held = entry.runs.get(run)
        row = entry.outcomes.get(run) or entry.record
        sought = row.get("artifact_blur") is not None
        path = held.find(RunDirectory.artifacts) if held and sought else None
        if held is None or path is None:
            return ArtifactLevels(kinds={})
        try:
            version = held.version_of(path)

            def read() -> ArtifactLevels:
                found = read_artifacts(path)
                scale = {"mpp_x": found.mpp_x, "mpp_y": found.mpp_y}
                masks = {k.name: found.where(k.name) for k in KINDS}
                return ArtifactLevels(
                    kinds={
                        name: mask_levels(Mask(array=mask, **scale), version=version)
                        for name, mask in masks.items()
                        if mask.any()
                    }
                )

            return self._maps.make(version, read)
        except FileNotFoundError:
            return ArtifactLevels(kinds={})
