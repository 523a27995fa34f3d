"""Annotation files of every format, as their programs write them, and small slides."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Size:
    width: int
    height: int


SLIDE = Size(100, 80)


def square(x: float, y: float, side: float) -> Points:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def asap(path: Path, *drawn: tuple[str, Points], kind: str = "Polygon") -> Path:
    """An ASAP file of (group, points)."""
    root = ET.Element("ASAP_Annotations")
    annotations = ET.SubElement(root, "Annotations")
    for group, points in drawn:
        made = ET.SubElement(annotations, "Annotation", Type=kind, PartOfGroup=group)
        coordinates = ET.SubElement(made, "Coordinates")
        for i, (x, y) in enumerate(points):
            ET.SubElement(coordinates, "Coordinate", Order=f"{i}", X=f"{x}", Y=f"{y}")
    ET.ElementTree(root).write(path)
    return path


def region(
    points: Points,
    *,
    negative: bool | str = False,
    kind: int | str = 0,
    text: str = "",
    attribute: str = "",
) -> str:
    """A region of an ImageScope or HALO file."""
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    cut_out = negative if isinstance(negative, str) else int(negative)
    flags = f'Type="{kind}" NegativeROA="{cut_out}" Text="{text}"'
    said = f'<Attributes><Attribute Name="" Value="{attribute}"/></Attributes>'
    return f"<Region {flags}>{said}<Vertices>{vertices}</Vertices></Region>"


def imagescope(
    path: Path, *layers: tuple[str, list[str]], colors: Sequence[int] = ()
) -> Path:
    """An ImageScope file of (name, regions); Ids count from 1."""
    shown = [*colors, *[0] * len(layers)]
    text = "".join(
        f'<Annotation Id="{i}" Name="{name}" LineColor="{shown[i - 1]}">'
        f"<Regions>{''.join(regions)}</Regions>"
        "</Annotation>"
        for i, (name, regions) in enumerate(layers, start=1)
    )
    path.write_text(f'<Annotations MicronsPerPixel="0.5">{text}</Annotations>')
    return path


def feature(geometry: dict[str, Any] | None, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def ring(x: float, y: float, side: float) -> list[list[float]]:
    return [[*p, 0.0] for p in (*square(x, y, side), (x, y))]


def area(*rings: list[list[float]], kind: str = "Polygon") -> dict[str, Any]:
    return {"type": kind, "coordinates": list(rings)}


def geojson(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(data))
    return path
