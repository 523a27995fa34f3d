"""Where the tumor of a slide is, by whatever file says so.

ASAP XML (CAMELYON), Aperio ImageScope XML (PAIP), QuPath GeoJSON and mask images (PAIP,
DigestPath) become one thing that answers in level-0 px. They count from the scanned
bounds, as QuPath's do.
"""

import logging
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml
from defusedxml import ElementTree

from digipath_ray.annotations import asap, imagescope
from digipath_ray.annotations.annotation import Annotation, PolygonAnnotation
from digipath_ray.annotations.geojson import parse_geojson
from digipath_ray.annotations.maskimage import MaskAnnotation, read_mask_annotation
from digipath_ray.annotations.outlines import Meaning, Meanings, Outlines
from digipath_ray.annotations.window import SlideSize, Window
from digipath_ray.slide.info import SlideError
from digipath_ray.storage.cache import local_copy
from digipath_ray.storage.files import is_url

__all__ = [
    "ANNOTATION_SUFFIXES",
    "Annotation",
    "MaskAnnotation",
    "Meaning",
    "Meanings",
    "PolygonAnnotation",
    "SlideSize",
    "Window",
    "read_annotation",
]

log = logging.getLogger(__name__)

XML_SUFFIXES = (".xml",)
GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
MASK_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".svs")
ANNOTATION_SUFFIXES = (*XML_SUFFIXES, *GEOJSON_SUFFIXES, *MASK_SUFFIXES)


def read_annotation(
    path: str | Path,
    *,
    slide: SlideSize,
    classes: Meanings | None = None,
    above: float | None = None,
) -> Annotation:
    """The annotation of a slide; a valid file that holds nothing says: no tumor.

    Args:
        path: file of the annotation.
        slide: the slide's ``SlideInfo``, or anything with its width and height.
        classes: what ASAP's groups, QuPath's classes and ImageScope's layers mean, by
            name (of a layer also by Id), beyond and before what is known:
            ``asap.KNOWN_GROUPS``, ``geojson.KNOWN_CLASSES``; a layer is tumor.
        above: of a mask image, tumor is what is above this value; by default 0, and
            127 for JPEG.

    Raises:
        SlideError: missing, damaged, of no known kind, with a group or class that
            nobody said the meaning of, or a mask that is not of the slide's shape.
        ValueError: ``classes`` holds a meaning that does not exist.
    """
    if not is_url(path):
        return _read_file(Path(path), slide, classes, above)
    with ExitStack() as held:
        try:
            copy = held.enter_context(local_copy(path))
        except FileNotFoundError as e:
            raise SlideError(str(e), "check the path in the manifest") from e
        annotation = _read_file(copy.path, slide, classes, above)
        # A mask is read as it is asked for: the copy stays while the annotation does.
        weakref.finalize(annotation, held.pop_all().close)
    return annotation


def _read_file(
    path: Path, slide: SlideSize, classes: Meanings | None, above: float | None
) -> Annotation:
    name = path.name.lower()
    _check_readable(path)
    if name.endswith(MASK_SUFFIXES):
        return read_mask_annotation(path, slide, above)
    if name.endswith(GEOJSON_SUFFIXES):
        outlines = parse_geojson(path, classes)
    elif name.endswith(XML_SUFFIXES):
        outlines = _parse_xml(path, classes)
    else:
        raise SlideError(
            f"{path.name}: no kind of annotation is called so",
            f"known are {' '.join(ANNOTATION_SUFFIXES)}",
        )
    if outlines.skipped:
        parts = [f"{n} x {what}" for what, n in sorted(outlines.skipped.items())]
        log.warning("%s: left out %s", path.name, ", ".join(parts))
    return PolygonAnnotation.of(outlines, slide)


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as e:
        raise SlideError(
            f"{path}: the annotation cannot be read: {e.strerror}",
            "check the path in the manifest, and the file's permissions",
        ) from e


def _parse_xml(path: Path, classes: Meanings | None) -> Outlines:
    root = _read_xml(path)
    if root.tag == asap.ROOT:
        return asap.parse_asap(root, path, classes)
    if root.tag == imagescope.ROOT:
        return imagescope.parse_imagescope(root, path, classes)
    raise SlideError(
        f"{path.name}: XML of <{root.tag}>, neither ASAP's <{asap.ROOT}> nor "
        f"ImageScope's <{imagescope.ROOT}>",
        "export the annotation from QuPath as GeoJSON, or as a mask image",
    )


def _read_xml(path: Path) -> Any:
    """The root of an XML file; entities are refused (they can fill any memory)."""
    try:
        return ElementTree.parse(path).getroot()
    except defusedxml.DefusedXmlException as e:
        raise SlideError(
            f"{path.name}: XML that declares entities, which no annotation needs: {e}",
            "export the annotation again, and do not use this file",
        ) from e
    # The last two are for encodings that Python cannot read.
    except (ParseError, LookupError, ValueError) as e:
        raise SlideError(
            f"{path.name}: damaged XML: {e}",
            "the file is cut short or damaged: copy or export it again",
        ) from e
