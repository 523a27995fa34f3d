"""Artifacts of a slide as files: the map, and outlines for QuPath."""

from collections.abc import Iterator
from typing import Any

from digipath_ray.artifacts.file import write_artifacts
from digipath_ray.artifacts.kinds import KINDS, ArtifactMap
from digipath_ray.outcome.qupath import feature, outline, write_features
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.info import SlideInfo
from digipath_ray.storage.files import publish


def write_artifact_files(
    run: RunDirectory, slide_id: str, found: ArtifactMap, info: SlideInfo
) -> None:
    """Publish a slide's map of artifacts, and an annotation of each kind for QuPath."""
    with publish(run.artifacts(slide_id)) as path:
        write_artifacts(path, found)
    features = artifact_features(found, info)
    write_features(run.artifact_outlines(slide_id), features)


def artifact_features(found: ArtifactMap, info: SlideInfo) -> Iterator[dict[str, Any]]:
    """A GeoJSON feature of each kind that is there, its outlines in level-0 px.

    Raises:
        SlideError: the slide's mpp is unknown.
    """
    mpp_x, mpp_y = info.need_mpp()
    mm2 = found.mpp_x * found.mpp_y / 1e6
    for kind in KINDS:
        pixels = found.where(kind.name)
        if pixels.any():
            yield feature(
                outline(
                    pixels,
                    x=0.0,
                    y=0.0,
                    l0_per_px_x=found.mpp_x / mpp_x,
                    l0_per_px_y=found.mpp_y / mpp_y,
                    max_x=info.width,
                    max_y=info.height,
                ),
                class_name=kind.label,
                color=kind.color,
                name=kind.meaning,
                measurements={"Area mm^2": float(pixels.sum()) * mm2},
            )
