"""Annotations of other programs, told by their keys: what to export instead."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from digipath_ray.slide.info import SlideError

Keys = Callable[[Mapping[str, Any]], bool]


def _has(*names: str) -> Keys:
    return lambda data: all(name in data for name in names)


def _elements(data: Mapping[str, Any]) -> bool:
    inner = data.get("annotation")
    return "elements" in data or (isinstance(inner, dict) and "elements" in inner)


JSON_PROGRAMS: tuple[tuple[str, Keys], ...] = (
    ("DSA or HistomicsUI", _elements),
    ("COCO", _has("images", "annotations")),
    ("COCO", _has("segmentation", "category_id")),
    ("LabelMe", _has("shapes", "imagePath")),
    ("LabelMe", _has("shapes", "version")),
    ("CVAT or Datumaro", _has("items", "categories")),
    ("CVAT", _has("version", "tags", "shapes")),
    ("VGG Image Annotator", _has("_via_img_metadata")),
    ("VGG Image Annotator", _has("regions", "filename")),
    ("Supervisely", _has("objects", "size")),
    ("Label Studio", _has("annotations", "data")),
    ("Label Studio", _has("completions", "data")),
    ("Labelbox", _has("data_row", "projects")),
    ("V7 Darwin", _has("item", "annotations")),
    ("Cytomine", _has("location", "term")),
    ("Hover-Net", _has("nuc")),
    ("TopoJSON", lambda data: data.get("type") == "Topology"),
    ("Esri JSON", _has("geometryType", "features")),
)
"""Programs and formats by the keys of their JSON, most telling first."""
XML_PROGRAMS = {
    "ndpviewstate": "NDP.view (.ndpa)",
    "image": "CVAT",
    "object": "Pascal VOC",
    "annotation": "Sedeen",
}
"""Programs by an element of their XML."""
INSTEAD = (
    "export GeoJSON from QuPath (File > Export objects as GeoJSON), or a mask image of "
    "0 and 255, one file for each slide"
)


def refuse_other_json(data: Any, path: Path) -> None:
    """Raise if JSON is of a program whose annotations are not read.

    Raises:
        SlideError: names the program and what to export instead.
    """
    first = data[0] if isinstance(data, list) and data else data
    if not isinstance(first, dict) or first.get("type") == "FeatureCollection":
        return
    if first.get("type") == "Feature":
        return
    values = [v for v in first.values() if isinstance(v, dict)]
    for candidate in (first, *values[:1]):
        for program, has_keys in JSON_PROGRAMS:
            if has_keys(candidate):
                raise SlideError(
                    f"{path.name}: JSON of {program}, which is not GeoJSON and is not "
                    "read",
                    INSTEAD,
                )


def xml_program(root: Any) -> str | None:
    """The program whose XML this is, if it is known."""
    return next(
        (
            name
            for tag, name in XML_PROGRAMS.items()
            if root.find(f".//{tag}") is not None
        ),
        None,
    )
