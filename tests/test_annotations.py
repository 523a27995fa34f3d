"""Annotations of every kind against areas and pixels that are written out or drawn."""

import gzip
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.annotations import (
    Annotation,
    MaskAnnotation,
    PolygonAnnotation,
    Window,
    maskfile,
    maskimage,
    masktiff,
    read_annotation,
)
from digipath_ray.annotations.maskbits import PackedBits, TiledBits
from digipath_ray.slide.info import SlideError
from tests.drawings import (
    SLIDE,
    Points,
    Size,
    area,
    asap,
    feature,
    geojson,
    imagescope,
    region,
    ring,
    square,
)

Place = tuple[float, float, int, int]


REAL = Size(220_000, 220_000)
"""Larger than any slide of CAMELYON."""


def polygons(path: Path, **told: Any) -> PolygonAnnotation:
    annotation = read_annotation(path, slide=SLIDE, **told)
    assert isinstance(annotation, PolygonAnnotation)
    return annotation


def window(annotation: Annotation, at: Place, scale: float = 1.0) -> NDArray[np.bool_]:
    return annotation.tumor(Window(*at, l0_per_px_x=scale, l0_per_px_y=scale))


def rows(text: str) -> NDArray[np.bool_]:
    """``# .`` drawn row by row as bool [rows, cols]."""
    return np.array([[c == "#" for c in line] for line in text.split()])


def blob(
    seed: int, *, points: int = 60, center: float = 40, size: float = 35
) -> Points:
    """A star-shaped outline without a straight angle in it, inside SLIDE."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radii = rng.uniform(0.3, 1.0, points) * size
    x, y = center + radii * np.cos(angles), center + radii * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))


# --- windows of outlines


def test_pixels_whose_center_is_inside(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", [(1, 1), (5, 1), (5, 3), (3, 3), (3, 5)]))
    # The slanted edge is at x = 1.25, 1.75, 2.25, 2.75 at the rows' centers.
    expected = rows("...... .####. ..###. ..#... ...... ......")
    assert window(polygons(path), (0, 0, 6, 6)).tolist() == expected.tolist()


def test_centers_on_an_outline_belong_to_one_side(tmp_path: Path) -> None:
    left = asap(tmp_path / "l.xml", ("Tumor", [(0, 0), (2.5, 0), (2.5, 8), (0, 8)]))
    right = asap(tmp_path / "r.xml", ("Tumor", [(2.5, 0), (6, 0), (6, 8), (2.5, 8)]))
    at = (0, 0, 6, 2)
    assert window(polygons(left), at).tolist() == rows("##.... ##....").tolist()
    assert window(polygons(right), at).tolist() == rows("..#### ..####").tolist()


def test_a_window_scaled_apart_in_x_and_y_beyond_the_slide(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", square(-10, -10, 14)))
    made = polygons(path).tumor(Window(-4, -3, 5, 4, l0_per_px_x=2, l0_per_px_y=3))
    # Centers at x = -3, -1, 1, 3, 5 and y = -1.5, 1.5, 4.5, 7.5; the slide ends at 0.
    assert made.tolist() == rows("..... ..##. ..... .....").tolist()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.0288, 2.0, 3.7])
def test_a_pixel_is_the_same_in_every_window(tmp_path: Path, scale: float) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", blob(1)), ("_2", square(30, 30, 9.5)))
    annotation = polygons(path)
    whole = window(annotation, (0, 0, 40, 40), scale)
    for col, row, width, height in ((0, 0, 7, 9), (13, 5, 20, 1), (22, 17, 18, 23)):
        part = window(annotation, (col * scale, row * scale, width, height), scale)
        assert (part == whole[row : row + height, col : col + width]).all()


@pytest.mark.parametrize("seed", range(5))
def test_pixels_agree_with_shapely(tmp_path: Path, seed: int) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", blob(seed)), ("_2", square(30, 30, 9.4)))
    expected = shapely.Polygon(blob(seed)) - shapely.Polygon(square(30, 30, 9.4))
    x, y = np.meshgrid(np.arange(90) + 0.5, np.arange(70) + 0.5)
    inside = shapely.contains_xy(expected, x, y)
    assert (window(polygons(path), (0, 0, 90, 70)) == inside).all()


def test_a_large_window_is_decided_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotation = polygons(asap(tmp_path / "a.xml", ("Tumor", blob(3))))
    whole = window(annotation, (0, 0, 90, 70))
    monkeypatch.setattr("digipath_ray.annotations.edges.STRIP_PX", 300)
    assert (window(annotation, (0, 0, 90, 70)) == whole).all()


# --- the whole slide, coarsely


def test_the_smallest_lesion_shows_on_the_map(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", square(700.2, 300.2, 10)))
    annotation = read_annotation(path, slide=Size(1000, 600))
    made = annotation.tumor_map(256, 128)
    assert made.shape == (5, 4)
    assert np.argwhere(made).tolist() == [[2, 2]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [(4.0, 4.0), (7.3, 5.1)])
def test_the_map_has_exactly_the_pixels_that_hold_tumor(
    tmp_path: Path, seed: int, scale: tuple[float, float]
) -> None:
    annotation = polygons(asap(tmp_path / "a.xml", ("Tumor", blob(seed))))
    made = annotation.tumor_map(*scale)
    assert made.shape == (np.ceil(80 / scale[1]), np.ceil(100 / scale[0]))
    left, top = np.meshgrid(*(np.arange(n) for n in made.shape[::-1]))
    boxes = shapely.box(
        left * scale[0], top * scale[1], (left + 1) * scale[0], (top + 1) * scale[1]
    )
    overlap = shapely.area(shapely.intersection(boxes, annotation.geometry))
    assert (made == (overlap > 0)).all()


# --- ASAP


@pytest.mark.parametrize("group", ["_0", "_1", "Tumor", "tumor", "metastases"])
@pytest.mark.parametrize("hole", ["_2", "Exclusion", "normal"])
def test_asap_groups(tmp_path: Path, group: str, hole: str) -> None:
    path = asap(
        tmp_path / "a.xml", (hole, square(15, 15, 4)), (group, square(10, 10, 20))
    )
    annotation = polygons(path)
    assert annotation.area_px == 400 - 16
    assert len(annotation.geometry.geoms[0].interiors) == 1
    assert annotation.area_mm2(0.5, 0.25) == pytest.approx(384 * 0.125 / 1e6)
    assert annotation.bounds == (10, 10, 30, 30)
    assert annotation.skipped == {}


def test_what_is_in_no_group_is_neither_tumor_nor_normal(tmp_path: Path) -> None:
    path = asap(
        tmp_path / "a.xml", ("Tumor", square(0, 0, 3)), ("None", square(2, 0, 3))
    )
    annotation = polygons(path)
    ignored = annotation.ignored(Window(0, 0, 6, 2, l0_per_px_x=1, l0_per_px_y=1))
    assert window(annotation, (0, 0, 6, 2)).tolist() == rows("##.... ##....").tolist()
    assert ignored.tolist() == rows("..###. ..###.").tolist()


def test_a_file_without_any_group_says_how_to_go_on(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("None", square(0, 0, 3)))
    with pytest.raises(SlideError, match="no outline has a group") as e:
        polygons(path)
    assert e.value.hint == "assign groups in ASAP, or give --classes None=tumor"
    assert polygons(path, classes={"none": "tumor"}).area_px == 9
    assert polygons(path, classes={"None": "skip"}).area_px == 0


def test_an_unknown_group_says_how_to_go_on(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("DCIS", square(0, 0, 3)), ("_0", square(9, 9, 2)))
    with pytest.raises(SlideError) as e:
        polygons(path)
    assert str(e.value) == (
        "a.xml: unknown group 'DCIS'; known: tumor: _0, _1, Tumor, metastases; "
        "hole: _2, Exclusion, normal"
    )
    assert "--classes DCIS=ignored, with tumor, hole" in e.value.hint
    assert polygons(path, classes={"DCIS": "tumor"}).area_px == 13
    assert polygons(path, classes={"dcis": "skip"}).area_px == 4


def test_a_meaning_that_does_not_exist(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("DCIS", square(0, 0, 3)))
    with pytest.raises(
        ValueError, match="'DCIS' has the unknown meaning 'tumour': choose from"
    ):
        polygons(path, classes={"DCIS": "tumour"})


def test_a_group_inside_a_known_group(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("lesion 1", square(0, 0, 3)))
    groups = '<Group Name="lesion 1" PartOfGroup="Tumor"/><Group Name="Tumor"/>'
    path.write_text(path.read_text().replace("</ASAP", f"{groups}</ASAP"))
    assert polygons(path).area_px == 9


def test_points_lines_and_outlines_of_two_points_are_skipped_and_said(
    tmp_path: Path,
) -> None:
    path = asap(
        tmp_path / "a.xml",
        ("Tumor", square(0, 0, 3)),
        ("Tumor", [(1, 1), (5, 5)]),
        ("Tumor", [(1, 1), (5, 5), (9, 9)]),
        ("unheard of", []),
    )
    path.write_text(path.read_text().replace("</Annotations>", "<Annotation "
        'Type="Dot" PartOfGroup="x"/></Annotations>'))  # fmt: skip
    annotation = polygons(path)
    assert annotation.area_px == 9
    assert annotation.skipped == {
        "a Dot": 1,
        "fewer than 3 points": 2,
        "an outline without area": 1,
    }
    assert annotation.account.concerns == [
        "left out: 1 x a Dot, 1 x an outline without area, 2 x fewer than 3 points"
    ]


def test_decimal_commas_and_points_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        '<ASAP_Annotations><Annotation PartOfGroup="Tumor"><Coordinates>'
        '<Coordinate Order="10" X="0,5" Y="4,5"/><Coordinate Order="2" X="4,5" Y="0"/>'
        '<Coordinate Order="3" X="4,5" Y="4,5"/><Coordinate Order="1" X="0,5" Y="0"/>'
        "</Coordinates></Annotation></ASAP_Annotations>"
    )
    assert polygons(path).area_px == 4 * 4.5


@pytest.mark.parametrize("bad", ["1,234.5", "1,2,3", "nan", "inf", "", "ten"])
def test_coordinates_that_are_no_numbers(tmp_path: Path, bad: str) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", square(0, 0, 3)))
    path.write_text(path.read_text().replace('X="3"', f'X="{bad}"', 1))
    with pytest.raises(SlideError, match=f"a.xml: invalid coordinate '{bad}'"):
        polygons(path)


def test_a_closed_outline_is_an_unclosed_one(tmp_path: Path) -> None:
    ring = [*square(0, 0, 3), (0.0, 0.0)]
    assert polygons(asap(tmp_path / "a.xml", ("Tumor", ring))).area_px == 9


@pytest.mark.parametrize(
    ("points", "area"),
    [
        pytest.param([(0, 0), (10, 10), (10, 0), (0, 10)], 50, id="eight"),
        pytest.param(
            [*square(0, 0, 10), (0, -1), (5, -1), (5, 5), (4, 5), (4, 0)],
            # The slide ends at y = 0; what was drawn twice counts once.
            100,
            id="drawn on",
        ),
        pytest.param([*square(0, 0, 10), (0, 0), (-5, 0), (0, 0)], 100, id="spike"),
    ],
)
def test_outlines_that_cross_themselves(
    tmp_path: Path, points: Points, area: float
) -> None:
    annotation = polygons(asap(tmp_path / "a.xml", ("Tumor", points)))
    assert annotation.geometry.is_valid
    assert annotation.area_px == pytest.approx(area)


def test_outlines_end_where_the_slide_ends(tmp_path: Path) -> None:
    path = asap(
        tmp_path / "a.xml", ("Tumor", square(90, 70, 50)), ("Tumor", square(300, 0, 9))
    )
    annotation = polygons(path)
    assert annotation.bounds == (90, 70, 100, 80)
    assert window(annotation, (98, 78, 4, 4)).sum() == 4
    assert annotation.tumor_map(32, 32).shape == (3, 4)


def test_an_empty_annotation_is_no_tumor(tmp_path: Path) -> None:
    annotation = polygons(asap(tmp_path / "a.xml"))
    assert annotation.area_px == 0
    assert annotation.bounds is None
    assert not window(annotation, (0, 0, 9, 9)).any()
    assert not annotation.ignored(
        Window(0, 0, 9, 9, l0_per_px_x=1, l0_per_px_y=1)
    ).any()
    assert annotation.tumor_map(40, 40).tolist() == [[False] * 3] * 2


# --- files that are no annotation

BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaa">'
    '<!ENTITY b "&a;&a;&a;&a;">]><ASAP_Annotations>&b;</ASAP_Annotations>'
)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<ASAP_Annotations><Annotation", "a.xml: damaged XML: "),
        ("a.xml", "", "a.xml: damaged XML: "),
        ("a.xml", '<?xml version="1.0" encoding="martian"?><a/>', "damaged XML: "),
        ("a.xml", BOMB, "a.xml: the XML declares entities"),
        ("a.xml", "<svg/>", r"a\.xml: unsupported XML root <svg>; expected ASAP's"),
        ("a.geojson", "{", "a.geojson: not GeoJSON: "),
        ("a.geojson", "[" * 10**6, "a.geojson: not GeoJSON: "),
        ("a.geojson", "\xff", "a.geojson: not GeoJSON: |not a GeoJSON feature"),
        ("a.geojson", "[1]", "a.geojson: not a GeoJSON feature"),
        ("a.geojson", "3", "a.geojson: not a GeoJSON feature"),
        ("a.geojson.gz", "\x1f\x8bx", "a.geojson.gz: not GeoJSON: "),
        ("a.png", "PNG", "a.png: cannot be read as a mask image: "),
        ("a.tif", "II*\0", "a.tif: cannot be read as a mask image: "),
        ("a.txt", "", "a.txt: unsupported annotation format"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SlideError, match=message):
        read_annotation(path, slide=SLIDE)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.xml").mkdir()
    for name, why in (("a.xml", "No such file"), ("b.xml", "Is a directory")):
        with pytest.raises(SlideError, match=f"cannot read the annotation: {why}"):
            read_annotation(tmp_path / name, slide=SLIDE)


def test_a_mask_that_is_gone_by_the_time_it_is_read(tmp_path: Path) -> None:
    path = write_tiles(tmp_path)
    made = read_annotation(path, slide=SLIDE)
    path.unlink()
    with pytest.raises(SlideError, match=r"cannot be read as a mask image: .*No such"):
        window(made, (0, 0, 5, 5))


# --- ImageScope


def test_imagescope_holes_are_cut_from_their_own_layer(tmp_path: Path) -> None:
    path = imagescope(
        tmp_path / "a.xml",
        ("", [region(square(2, 2, 2), negative=True), region(square(0, 0, 10))]),
        ("", [region(square(20, 0, 10)), region(square(3, 3, 1))]),
    )
    assert polygons(path).area_px == 100 - 4 + 100 + 1


def test_imagescope_layers_may_be_told_by_id_or_name(tmp_path: Path) -> None:
    path = imagescope(
        tmp_path / "a.xml",
        ("whole", [region(square(0, 0, 10))]),
        ("viable", [region(square(2, 2, 3))]),
    )
    assert polygons(path).area_px == 9
    assert polygons(path, classes={"1": "tumor"}).area_px == 100
    assert polygons(path, classes={"Whole": "tumor"}).area_px == 100
    told = {"whole": "tumor", "viable": "hole"}
    assert polygons(path, classes=told).area_px == 91


def test_imagescope_shapes_that_are_no_outline(tmp_path: Path) -> None:
    path = imagescope(
        tmp_path / "a.xml",
        (
            "",
            [
                region([(0, 0), (10, 4)], kind=1),
                region([(40, 20), (20, 0)], kind=2),
                region([(50, 50), (60, 60)], kind=3),
                region([(50, 50), (60, 60)], kind=4),
                region([(50, 50), (60, 60)]),
            ],
        ),
    )
    annotation = polygons(path)
    assert annotation.area_px == pytest.approx(40 + np.pi * 100, rel=0.001)
    assert annotation.bounds == (0, 0, 40, 20)
    assert annotation.skipped == {
        "an arrow": 1,
        "a ruler": 1,
        "fewer than 3 points": 1,
    }


def test_an_imagescope_file_with_nothing_in_it(tmp_path: Path) -> None:
    assert polygons(imagescope(tmp_path / "a.xml", ("", []))).area_px == 0


# --- GeoJSON


SQUARE = area(ring(0, 0, 10))


@pytest.mark.parametrize(
    "data",
    [
        {"type": "FeatureCollection", "features": [feature(SQUARE)]},
        [feature(SQUARE)],
        feature(SQUARE),
        SQUARE,
        {"type": "Feature", "id": "PathAnnotationObject", "geometry": SQUARE},
        feature(SQUARE, classification={"name": "Tumor", "colorRGB": -3670016}),
        feature(SQUARE, classification={"name": "Tumor", "color": [200, 0, 0]}),
        feature(SQUARE, classification={"names": ["Tumor"], "color": [200, 0, 0]}),
        feature(SQUARE, classification="metastasis", objectType="annotation"),
        feature(SQUARE, classification={"names": ["Tumor", "Positive"]}),
        feature(SQUARE, classification={"name": "Tumor: Positive"}),
        feature(area([SQUARE["coordinates"][0]], kind="MultiPolygon")),
        feature({"type": "GeometryCollection", "geometries": [SQUARE]}),
        feature(None, childObjects=[feature(SQUARE)]),
        {"type": "Feature", "geometry": SQUARE, "properties": "none"},
    ],
)
def test_geojson_forms(tmp_path: Path, data: object) -> None:
    assert polygons(geojson(tmp_path, data)).area_px == 100


def test_geojson_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(feature(SQUARE)).encode()))
    assert polygons(path).area_px == 100


def test_geojson_holes_and_what_is_cut_out(tmp_path: Path) -> None:
    made = polygons(
        geojson(
            tmp_path,
            [
                feature(
                    area(ring(0, 0, 10), ring(2, 2, 2), []), classification="tumor"
                ),
                feature(area(ring(5, 5, 2)), classification={"name": "Hole"}),
                feature(area(ring(8, 0, 4)), classification={"name": "Ignore*"}),
                feature(area(ring(0, 0, 80)), classification={"name": "Region*"}),
            ],
        )
    )
    assert made.area_px == 100 - 4 - 4 - 8
    assert made.ignored_geometry.area == 16


def test_geojson_of_other_things_is_skipped(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[0, 0], [5, 5]]}
    made = polygons(
        geojson(
            tmp_path,
            [
                feature(
                    {"type": "Point", "coordinates": [1, 1]}, classification="Rare"
                ),
                feature({"type": "GeometryCollection", "geometries": [line, SQUARE]}),
                feature(area(ring(0, 0, 50)), objectType="cell", classification="x"),
                {**feature(area(ring(0, 0, 50))), "id": "PathDetectionObject"},
                feature({"type": "GeometryCollection", "geometries": None}),
                feature(area([[0, 0], [4, 4]])),
                feature(area()),
                feature(None),
            ],
        )
    )
    assert made.area_px == 100
    assert made.skipped == {
        "a Point": 1,
        "a LineString": 1,
        "a cell": 1,
        "a detection": 1,
        "fewer than 3 points": 2,
        "no geometry": 1,
    }


def test_an_unknown_class_says_how_to_go_on(tmp_path: Path) -> None:
    path = geojson(tmp_path, feature(SQUARE, classification={"name": "Stroma"}))
    with pytest.raises(SlideError, match="unknown class 'Stroma'; known: tumor:"):
        polygons(path)
    assert polygons(path, classes={"Stroma": "skip"}).area_px == 0
    assert polygons(path, classes={"stroma": "tumor"}).area_px == 100


def test_what_has_no_class_may_be_told(tmp_path: Path) -> None:
    path = geojson(tmp_path, feature(SQUARE))
    assert polygons(path, classes={"unclassified": "ignored"}).area_px == 0


@pytest.mark.parametrize("bad", [[[0, 0]], [[[0], [1], [2]]], 7, [[["a", 0]] * 3]])
def test_geojson_coordinates_that_are_no_rings(tmp_path: Path, bad: object) -> None:
    for shape in ("Polygon", "MultiPolygon"):
        path = geojson(tmp_path, {"type": shape, "coordinates": bad})
        with pytest.raises(
            SlideError, match=r"coordinates are not rings|invalid coordinate"
        ):
            polygons(path)


def test_an_empty_collection_is_no_tumor(tmp_path: Path) -> None:
    data = {"type": "FeatureCollection", "features": []}
    assert polygons(geojson(tmp_path, data)).area_px == 0


# --- mask images

MASK = np.zeros((80, 100), np.uint8)
MASK[10:30, 20:60] = 255
MASK[79, 99] = 255
Write = Callable[[Path], Path]


def write_png(tmp_path: Path) -> Path:
    Image.fromarray(MASK).save(tmp_path / "m.png")
    return tmp_path / "m.png"


def write_labels(tmp_path: Path) -> Path:
    """Class numbers of 16 bits."""
    path = tmp_path / "m.png"
    Image.fromarray((MASK // 255).astype(np.uint16)).save(path)
    return path


def write_palette(tmp_path: Path) -> Path:
    """Black has index 1, as ImageMagick may have it."""
    path = tmp_path / "m.png"
    image = Image.fromarray(np.where(MASK, 0, 1).astype(np.uint8), mode=None)
    image = image.convert("P")
    image.putdata(np.where(MASK, 0, 1).ravel().tolist())
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(path)
    return path


def write_alpha(tmp_path: Path) -> Path:
    path = tmp_path / "m.png"
    Image.fromarray(np.stack([MASK] * 3 + [np.full_like(MASK, 255)], axis=-1)).save(
        path
    )
    return path


def write_bilevel(tmp_path: Path) -> Path:
    path = tmp_path / "m.tif"
    Image.fromarray(MASK).convert("1").save(path, compression="group4")
    return path


def write_strips(tmp_path: Path) -> Path:
    path = tmp_path / "m.tiff"
    tifffile.imwrite(path, MASK // 255, compression="lzw", rowsperstrip=7)
    return path


def write_white_is_zero(tmp_path: Path) -> Path:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, 255 - MASK, photometric="miniswhite")
    return path


def write_tiles(tmp_path: Path, data: NDArray[np.uint8] = MASK, **more: Any) -> Path:
    """A pyramid whose coarser level is all tumor, so that reading it would show."""
    path = tmp_path / "m.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(data, tile=(32, 16), **{"compression": "lzw", **more})
        coarse = np.full_like(data[::2, ::2], 255)
        tiff.write(coarse, tile=(32, 16), subfiletype=1, **more)
    return path


def write_plain_tiles(tmp_path: Path) -> Path:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, MASK, tile=(32, 16))
    return path


def write_jpeg_tiles(tmp_path: Path) -> Path:
    rgb = np.stack([MASK] * 3, axis=-1)
    return write_tiles(tmp_path, rgb, compression="jpeg", photometric="rgb")


def write_ycbcr_tiles(tmp_path: Path) -> Path:
    """JPEG as pyramids mostly have it: black is stored as (0, 128, 128)."""
    stored = np.asarray(Image.fromarray(MASK).convert("RGB").convert("YCbCr"))
    return write_tiles(tmp_path, stored, compression="jpeg", photometric="ycbcr")


def write_palette_tiles(tmp_path: Path) -> Path:
    colors = np.zeros((3, 256), np.uint16)
    colors[:, 0] = 65535
    return write_tiles(
        tmp_path, np.where(MASK, 0, 1).astype(np.uint8), photometric="palette",
        colormap=colors,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (write_png, PackedBits),
        (write_labels, PackedBits),
        (write_palette, PackedBits),
        (write_alpha, PackedBits),
        (write_bilevel, PackedBits),
        (write_strips, PackedBits),
        (write_white_is_zero, PackedBits),
        (write_tiles, TiledBits),
        (write_jpeg_tiles, TiledBits),
        (write_ycbcr_tiles, TiledBits),
        (write_palette_tiles, TiledBits),
    ],
)
def test_mask_images(tmp_path: Path, write: Write, kind: type) -> None:
    made = read_annotation(write(tmp_path), slide=SLIDE)
    assert isinstance(made, MaskAnnotation)
    assert isinstance(made.bits, kind)
    whole = window(made, (0, 0, 100, 80))
    assert (whole[:70, :90] == (MASK[:70, :90] > 0)).all()
    assert whole[79, 99]  # a JPEG's ringing may reach its neighbors
    part = window(made, (17.0, 5.0, 30, 20))
    assert (part == whole[5:25, 17:47]).all()
    assert not made.ignored(Window(0, 0, 9, 9, l0_per_px_x=1, l0_per_px_y=1)).any()
    assert made.area_px == whole.sum()


def test_a_window_of_a_mask_may_hang_over_the_slide(tmp_path: Path) -> None:
    made = read_annotation(write_tiles(tmp_path), slide=SLIDE)
    over = window(made, (95, 75, 10, 10))
    assert np.argwhere(over).tolist() == [[4, 4]]
    assert not window(made, (200, 200, 5, 5)).any()
    assert not window(made, (-20, -20, 5, 5)).any()


def test_a_mask_of_another_size_is_read_at_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 1, 0], [0, 0, 1]], np.uint8)).save(path)
    made = read_annotation(path, slide=Size(12, 8))
    assert made.area_px == 2 * 16
    # Centers of the window at x = 3.5, 4.5, .. and of the mask's columns at 2, 6, 10.
    assert window(made, (3, 0, 8, 1)).tolist() == rows(".####...").tolist()
    assert window(made, (0, 0, 6, 4), 2.0).tolist() == (
        rows("..##.. ..##.. ....## ....##").tolist()
    )
    assert made.tumor_map(6, 4).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("seed", range(3))
def test_the_map_of_a_mask_has_all_pixels_that_hold_tumor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((80, 100)) < 0.005).astype(np.uint8)
    made = read_annotation(write_tiles(tmp_path, mask), slide=Size(250, 200))
    for scale_x, scale_y in ((2.5, 2.5), (20.0, 10.0), (1.0, 1.5), (33.0, 17.7)):
        expected = np.zeros(
            (int(np.ceil(200 / scale_y)), int(np.ceil(250 / scale_x))), np.bool_
        )
        for row, col in np.argwhere(mask):
            ends_y = np.array([row * 2.5, (row + 1) * 2.5]) / scale_y
            ends_x = np.array([col * 2.5, (col + 1) * 2.5]) / scale_x
            (top, bottom), (left, right) = np.round(ends_y, 9), np.round(ends_x, 9)
            expected[
                int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))
            ] = True
        assert (made.tumor_map(scale_x, scale_y) == expected).all()
        monkeypatch.setattr(maskimage, "STRIP_PX", 1100)
        assert (made.tumor_map(scale_x, scale_y) == expected).all()


def test_a_jpeg_is_tumor_from_128_on(tmp_path: Path) -> None:
    made = np.zeros((16, 24), np.uint8)
    made[:, 8:16], made[:, 16:] = 127, 128
    path = tmp_path / "m.jpg"
    Image.fromarray(made).save(path, quality=100)
    slide = Size(24, 16)
    centers = (4.0, 8.0, 3, 1)
    assert window(read_annotation(path, slide=slide), (0, 0, 3, 1), 8.0).tolist() == [
        [False, False, True]
    ]
    lower = read_annotation(path, slide=slide, above=100)
    assert window(lower, (*centers[:2], 2, 1), 8.0).tolist() == [[True, True]]
    png = tmp_path / "m.png"
    Image.fromarray(made).save(png)
    with pytest.raises(SlideError, match="several values"):
        read_annotation(png, slide=slide)
    assert read_annotation(png, slide=slide, above=0).area_px == 2 * 128
    assert read_annotation(png, slide=slide, above=127).area_px == 128


def test_compression_noise_is_no_tumor(tmp_path: Path) -> None:
    path = tmp_path / "m.jpg"
    Image.fromarray(MASK).save(path, quality=20)
    assert (np.asarray(Image.open(path))[MASK == 0] > 0).sum() > 100
    made = window(read_annotation(path, slide=SLIDE), (0, 0, 100, 80))
    assert (made != (MASK > 0)).mean() < 0.002


@pytest.mark.parametrize("size", [(100, 83), (103, 80), (80, 100)])
def test_a_mask_of_other_proportions(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "m.png"
    Image.new("L", size).save(path)
    message = (
        f"the mask is {size[0]} x {size[1]} px, the slide 100 x 80 px: "
        "aspect ratios differ by more than 2 %"
    )
    with pytest.raises(SlideError, match=message):
        read_annotation(path, slide=SLIDE)


@pytest.mark.parametrize("size", [(100, 81), (99, 80), (25, 20), (7, 5), (7, 6)])
def test_a_mask_that_was_rounded_to_whole_pixels(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "m.png"
    Image.new("L", size, 1).save(path)
    assert read_annotation(path, slide=SLIDE).area_px == pytest.approx(8000)


def test_a_mask_without_tiles_is_kept_as_bits(tmp_path: Path) -> None:
    made = read_annotation(write_strips(tmp_path), slide=SLIDE)
    assert isinstance(made, MaskAnnotation)
    assert isinstance(made.bits, PackedBits)
    assert made.bits.packed.nbytes == 80 * 13


@pytest.mark.parametrize(
    ("limit", "write", "what"),
    [
        ("MAX_KEPT_PX", write_strips, "100 x 80 px without tiles"),
        ("MAX_PIECE_PX", write_strips, "100 x 7 px in one strip"),
        ("MAX_PIECE_PX", write_tiles, "16 x 32 px in one tile"),
        ("MAX_PIECE_PX", write_png, "100 x 80 px without tiles"),
    ],
)
def test_a_mask_too_large_to_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, write: Write, what: str
) -> None:
    path = write(tmp_path)
    reader = maskfile if write is write_png else masktiff
    monkeypatch.setattr(reader, limit, 500)
    with pytest.raises(SlideError, match=what) as e:
        read_annotation(path, slide=SLIDE)
    assert "vips tiffsave --tile" in e.value.hint


def test_tiles_left_out_of_the_file_hold_no_tumor(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    tiles = [np.full((16, 16), 1, np.uint8), None]
    tifffile.imwrite(path, iter(tiles), shape=(16, 32), dtype="uint8", tile=(16, 16))
    made = read_annotation(path, slide=Size(32, 16))
    assert made.area_px == 256


@pytest.mark.parametrize("write", [write_strips, write_plain_tiles])
def test_a_mask_whose_end_is_missing(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SlideError, match="the file is truncated"):
        window(read_annotation(path, slide=SLIDE), (0, 0, 100, 80))


def test_several_masks_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, np.stack([MASK, MASK]), photometric="minisblack")
    with pytest.raises(SlideError, match="several masks of 100 x 80 px in one file"):
        read_annotation(path, slide=SLIDE)


def test_channels_stored_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    planes = np.stack([MASK] * 3)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(SlideError, match="channels or planes are stored separately"):
        read_annotation(path, slide=SLIDE)


def test_a_strip_cut_short(tmp_path: Path) -> None:
    path = write_strips(tmp_path)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(SlideError, match="cannot be read as a mask image"):
        read_annotation(path, slide=SLIDE)


def test_a_damaged_tile_shows_when_it_is_read(tmp_path: Path) -> None:
    path = write_tiles(tmp_path, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"m\.tif: cannot be read as a mask image"):
        read_annotation(path, slide=SLIDE)
    made = read_annotation(path, slide=SLIDE, trusted=True)
    assert window(made, (20, 10, 5, 5)).all()
    with pytest.raises(SlideError, match=r"m\.tif: cannot be read as a mask image"):
        window(made, (0, 0, 5, 5))


# --- real files


def drawn_in(path: Path) -> dict[str, list[Any]]:
    """The polygons of an ASAP file by group, read without the package."""
    found: dict[str, list[Any]] = {}
    for made in ET.parse(path).iter("Annotation"):
        xy = [
            (float(c.get("X", "")), float(c.get("Y", "")))
            for c in made.iter("Coordinate")
        ]
        shape = shapely.Polygon(xy) if len(xy) > 2 else shapely.Polygon()
        found.setdefault(made.get("PartOfGroup", ""), []).append(
            shapely.make_valid(shape, method="structure")
        )
    return found


Real = list[tuple[Path, PolygonAnnotation]]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Real:
    """31 annotations of CAMELYON16 and one of CAMELYON17."""
    files = sorted((shared_data / "camelyon16" / "annotations").glob("*.xml"))
    assert len(files) == 31
    files.append(shared_data / "camelyon17" / "patient_004_node_4.xml")
    found: Real = []
    for path in files:
        annotation = read_annotation(path, slide=REAL)
        assert isinstance(annotation, PolygonAnnotation)
        found.append((path, annotation))
    return found


def test_real_areas_and_holes(real: Real) -> None:
    cut_out = {}
    for path, annotation in real:
        drawn = drawn_in(path)
        assert set(drawn) <= {"_0", "_2", "Tumor"}
        cut = shapely.union_all(drawn.get("_2", []))
        tumor = shapely.union_all([*drawn.get("_0", []), *drawn.get("Tumor", [])])
        difference = shapely.symmetric_difference(annotation.geometry, tumor - cut)
        assert difference.area < 1e-6 * tumor.area
        assert annotation.geometry.is_valid
        assert annotation.area_px == pytest.approx(tumor.area - (tumor & cut).area)
        if not cut.is_empty:
            cut_out[path.name] = (len(drawn["_2"]), round((tumor & cut).area))
    assert cut_out == {"tumor_064.xml": (24, 6127534), "tumor_107.xml": (3, 1702223)}


def test_real_areas_as_pixels(real: Real) -> None:
    """Within 1 % of the outline's own area at 4 level-0 px per pixel."""
    for _, annotation in real:
        total = 0
        for part in annotation.geometry.geoms:
            left, top, right, bottom = part.bounds
            at = (left, top, int((right - left) // 4) + 1, int((bottom - top) // 4) + 1)
            own = PolygonAnnotation(
                geometry=shapely.MultiPolygon([part]),
                ignored_geometry=shapely.MultiPolygon(),
                width=REAL.width,
                height=REAL.height,
                skipped={},
            )
            total += 16 * int(window(own, at, 4.0).sum())
        assert total == pytest.approx(annotation.area_px, rel=0.01)


def test_real_windows_equal_the_pixels_of_shapely(real: Real) -> None:
    for _, annotation in real:
        part = max(annotation.geometry.geoms, key=lambda g: len(g.exterior.coords))
        x, y = (round(v) for v in part.exterior.coords[0])
        cols, rows_ = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
        shapely.prepare(annotation.geometry)
        at = (x - 32 + cols.ravel(), y - 32 + rows_.ravel())
        inside = shapely.contains_xy(annotation.geometry, *at)
        on_or_inside = shapely.intersects_xy(annotation.geometry, *at)
        made = window(annotation, (x - 32, y - 32, 64, 64)).ravel()
        assert made[inside].all()
        assert not made[~on_or_inside].any()


def test_no_real_lesion_is_missing_on_the_map(real: Real) -> None:
    lesions = 0
    for _, annotation in real:
        made = annotation.tumor_map(128, 128)
        for part in annotation.geometry.geoms:
            point = part.representative_point()
            assert made[int(point.y // 128), int(point.x // 128)]
            lesions += 1
        assert made.sum() * 128**2 >= annotation.area_px
    assert lesions > 250


@pytest.mark.parametrize(
    ("name", "parts", "told"),
    [
        ("qupath-brush.json", 1, None),
        ("qupath-polygon.json", 1, None),
        # Named UT and I, in no class: what they mean has to be said.
        ("qupath05.geojson", 3, {"unclassified": "tumor"}),
    ],
)
def test_real_qupath_exports(
    shared_data: Path, name: str, parts: int, told: dict[str, Any] | None
) -> None:
    path = shared_data / "qupath" / name
    data = json.loads(path.read_text())
    features = data.get("features", [data])
    shapes = [shapely.from_geojson(json.dumps(f["geometry"])) for f in features]
    annotation = read_annotation(path, slide=REAL, classes=told)
    assert len(shapes) == parts
    expected = shapely.union_all(shapely.make_valid(shapes, method="structure"))
    assert annotation.area_px == pytest.approx(expected.area, rel=1e-9)
