"""Tumor annotations of a slide, read from any supported file format.

ASAP XML (CAMELYON), Aperio ImageScope XML (PAIP), QuPath GeoJSON and mask images (PAIP,
DigestPath) are all read into an :class:`Annotation` in level-0 px, relative to the
scanned bounds, as in QuPath: what counts from the whole canvas is moved here.
"""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml
import shapely
from defusedxml import ElementTree
from shapely import affinity

from digipath_ray.annotations import asap, imagescope
from digipath_ray.annotations.account import Account, check_holds_tumor
from digipath_ray.annotations.annotation import Annotation, PolygonAnnotation
from digipath_ray.annotations.drawing import Drawing, meanings_of, sort_by_meaning
from digipath_ray.annotations.geojson import read_geojson
from digipath_ray.annotations.layered import LayeredAnnotation
from digipath_ray.annotations.maskimage import MaskAnnotation, read_mask_annotation
from digipath_ray.annotations.maskvalues import MaskRule
from digipath_ray.annotations.otherprograms import INSTEAD, xml_program
from digipath_ray.annotations.outlines import Meaning, Meanings, Outlines
from digipath_ray.annotations.window import SlideSize, Window
from digipath_ray.config.fit_classes import ClassSpec
from digipath_ray.config.run import Origin
from digipath_ray.slide.frames import canvas_of, check_origin, outline_shift
from digipath_ray.slide.info import SlideError
from digipath_ray.storage.cache import local_copy
from digipath_ray.storage.files import is_url

__all__ = [
    "ANNOTATION_SUFFIXES",
    "Account",
    "Annotation",
    "LayeredAnnotation",
    "MaskAnnotation",
    "MaskRule",
    "Meaning",
    "Meanings",
    "PolygonAnnotation",
    "SlideSize",
    "Window",
    "read_annotation",
]

XML_SUFFIXES = (".xml",)
GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
XML: Origin = "canvas"
"""ASAP, ImageScope and HALO count from the whole canvas."""
QUPATH: Origin = "bounds"
"""QuPath crops slides to their bounds since 0.2.0, so its positions count from them."""
MASK_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".svs")
ANNOTATION_SUFFIXES = (*XML_SUFFIXES, *GEOJSON_SUFFIXES, *MASK_SUFFIXES)


def read_annotation(
    path: str | Path,
    *,
    slide: SlideSize,
    classes: Meanings | None = None,
    above: float | None = None,
    origin: Origin | None = None,
    values: Mapping[float, str] | None = None,
    trusted: bool = False,
    spec: ClassSpec | None = None,
) -> Annotation:
    """Read the annotation of a slide; only an empty file means no tumor.

    Args:
        path: file of the annotation.
        slide: the slide's ``SlideInfo``, or any object with width and height.
        classes: meaning of ASAP groups, QuPath classes and ImageScope layers, by name
            (layers also by Id). Extends and overrides the defaults
            ``asap.KNOWN_GROUPS`` and ``drawing.KNOWN_CLASSES``.
        above: threshold of a mask image: tumor is above this value. Default: the one
            value beside 0 is tumor; above 127 in a JPEG.
        origin: what the file counts from where the slide is part of a larger canvas.
            Default: ASAP, ImageScope and HALO from the canvas, QuPath from the bounds,
            a mask as its size says.
        values: value of a mask image -> "tumor", "ignored" or "skip".
        trusted: do not count the values of a mask again, which takes a while: they were
            found to be clear.
        spec: classes to tell apart beside tumor; then a :class:`LayeredAnnotation` is
            returned, and values of masks are those that it names.

    Raises:
        SlideError: the file is missing, damaged or of an unsupported format, has a
            group or class of unknown meaning, holds things of which none is tumor on
            the slide, is a mask of another aspect ratio or of unclear values, or may
            count from the canvas or from the bounds.
        ValueError: ``classes`` holds an unknown meaning, or ``origin`` is unknown.
    """
    check_origin(origin)
    rule = MaskRule(above=above, values=values or {})
    if not is_url(path):
        return _read_file(Path(path), slide, classes, rule, origin, trusted, spec)
    with ExitStack() as held:
        try:
            copy = held.enter_context(local_copy(path))
        except FileNotFoundError as e:
            raise SlideError(str(e), "check the path in the manifest") from e
        annotation = _read_file(copy.path, slide, classes, rule, origin, trusted, spec)
        # A mask is read lazily, so the local copy must live as long as the annotation.
        weakref.finalize(annotation, held.pop_all().close)
    return annotation


def _read_file(
    path: Path,
    slide: SlideSize,
    classes: Meanings | None,
    rule: MaskRule,
    origin: Origin | None,
    trusted: bool,
    spec: ClassSpec | None,
) -> Annotation:
    name = path.name.lower()
    _check_readable(path)
    if name.endswith(MASK_SUFFIXES):
        if spec is not None:
            return _read_mask_of_classes(path, slide, spec, origin, trusted)
        return read_mask_annotation(path, slide, rule, origin=origin, trusted=trusted)
    if name.endswith(GEOJSON_SUFFIXES):
        drawing, usual = read_geojson(path), QUPATH
    elif name.endswith(XML_SUFFIXES):
        drawing, usual = _parse_xml(path), XML
    else:
        raise SlideError(
            f"{path.name}: unsupported annotation format",
            f"supported suffixes: {' '.join(ANNOTATION_SUFFIXES)}",
        )

    def outlined(counted: frozenset[str] = frozenset()) -> PolygonAnnotation:
        those, meanings = drawing, classes
        if spec is not None:
            those, meanings = meanings_of(drawing, spec, counted, classes)
        outlines = sort_by_meaning(those, path, meanings, spec)
        placed = _placed(outlines, slide, usual=usual, origin=origin, name=path.name)
        annotation = PolygonAnnotation.of(placed, slide)
        if spec is None or len(counted) == len(spec.names) - 1:
            check_holds_tumor(path.name, placed, annotation.geometry, slide)
        return annotation

    return outlined() if spec is None else LayeredAnnotation.of(spec, outlined)


def _read_mask_of_classes(
    path: Path,
    slide: SlideSize,
    spec: ClassSpec,
    origin: Origin | None,
    trusted: bool,
) -> Annotation:
    """A label image as the annotation of several classes."""
    if not spec.values:
        raise SlideError(
            f"{path.name}: a mask image, and no value is said to be a class",
            f"name them: --class-values {spec.names[1]}=1,..., of "
            f"{', '.join(spec.names)}",
        )

    def masked(counted: frozenset[str]) -> Annotation:
        values = {
            value: "tumor" if of in counted else "skip"
            for value, of in spec.by_value.items()
        }
        rule = MaskRule(values=values, is_complete=True)
        return read_mask_annotation(path, slide, rule, origin=origin, trusted=trusted)

    return LayeredAnnotation.of(spec, masked)


def _placed(
    outlines: Outlines,
    slide: SlideSize,
    *,
    usual: Origin,
    origin: Origin | None,
    name: str,
) -> Outlines:
    """Outlines in the slide's frame, from where their format counts from."""
    canvas = canvas_of(slide)
    drawn = [*outlines.tumor, *outlines.holes, *outlines.ignored]
    if canvas is None or not drawn:
        return outlines
    left, top, right, bottom = (float(v) for v in shapely.total_bounds(drawn))
    x, y = outline_shift(
        (left, top, right, bottom),
        canvas=canvas,
        width=slide.width,
        height=slide.height,
        usual=usual,
        origin=origin,
        name=name,
    )
    return replace(
        outlines,
        tumor=[affinity.translate(shape, x, y) for shape in outlines.tumor],
        holes=[affinity.translate(shape, x, y) for shape in outlines.holes],
        ignored=[affinity.translate(shape, x, y) for shape in outlines.ignored],
        cut=[affinity.translate(shape, x, y) for shape in outlines.cut],
    )


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as e:
        raise SlideError(
            f"{path}: cannot read the annotation: {e.strerror}",
            "check the path in the manifest, and the file permissions",
        ) from e


def _parse_xml(path: Path) -> Drawing:
    root = _read_xml(path)
    if root.tag == asap.ROOT:
        return asap.read_asap(root, path)
    if root.tag == imagescope.ROOT:
        return imagescope.read_imagescope(root, path)
    program = xml_program(root)
    raise SlideError(
        f"{path.name}: unsupported XML root <{root.tag}>"
        f"{f' ({program})' if program else ''}; expected ASAP's <{asap.ROOT}> or "
        f"ImageScope's and HALO's <{imagescope.ROOT}>",
        INSTEAD,
    )


def _read_xml(path: Path) -> Any:
    """Parse an XML file; entities are rejected (they can expand without bound)."""
    try:
        return ElementTree.parse(path).getroot()
    except defusedxml.DefusedXmlException as e:
        raise SlideError(
            f"{path.name}: the XML declares entities, which annotations never need: "
            f"{e}",
            "export the annotation again, and do not use this file",
        ) from e
    # LookupError and ValueError are raised for encodings unknown to Python.
    except (ParseError, LookupError, ValueError) as e:
        raise SlideError(
            f"{path.name}: damaged XML: {e}",
            "the file is truncated or damaged: copy or export it again",
        ) from e
