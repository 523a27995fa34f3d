"""A slide within a larger canvas: every format ends up in the slide's own frame."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from digipath_ray.annotations import Window, read_annotation
from digipath_ray.annotations.annotation import Annotation
from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.toml import from_tree
from digipath_ray.evaluate.masks import overlap_of_mask
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.pipeline.prepare import crop_to_slide, prepare_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide
from digipath_ray.run.record import SlideRecord, canvas_of_row
from digipath_ray.schema import SLIDES
from digipath_ray.slide.frames import mask_origin
from digipath_ray.slide.info import Canvas, SlideError, SlideInfo
from digipath_ray.slide.open import open_slide
from tests.runs import SMALL
from tests.slides import noise, write_levels, write_scn

SIZE, OFFSET, CANVAS = (200, 140), (120, 90), (500, 400)
BOX = (30, 20, 110, 80)
"""Left, top, right, bottom of the tumor, px of the scanned bounds."""
ON_CANVAS = tuple(v + OFFSET[i % 2] for i, v in enumerate(BOX))


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    pixels = np.full((SIZE[1], SIZE[0], 3), (220, 150, 200), np.uint8)
    return write_scn(tmp_path / "s.scn", pixels, mpp=0.5, offset=OFFSET, canvas=CANVAS)


def info_of(path: Path) -> SlideInfo:
    with open_slide(path) as opened:
        return opened.info


def corners(box: tuple[int, ...]) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def write_asap(path: Path, box: tuple[int, ...]) -> Path:
    points = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>'
        for i, (x, y) in enumerate(corners(box))
    )
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" '
        f'PartOfGroup="Tumor"><Coordinates>{points}</Coordinates></Annotation>'
        "</Annotations></ASAP_Annotations>"
    )
    return path


def write_imagescope(path: Path, box: tuple[int, ...]) -> Path:
    points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners(box))
    path.write_text(
        '<Annotations><Annotation Id="1" Name="Tumor"><Regions><Region Type="0">'
        f"<Vertices>{points}</Vertices></Region></Regions></Annotation></Annotations>"
    )
    return path


def write_geojson(path: Path, box: tuple[int, ...]) -> Path:
    ring = [*corners(box), corners(box)[0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Tumor"},
        },
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def write_mask(path: Path, box: tuple[int, ...], size: tuple[int, int]) -> Path:
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(mask).save(path)
    return path


def box_of(annotation: Annotation, info: SlideInfo) -> tuple[int, ...]:
    """Left, top, right, bottom of what is tumor; it must be a full rectangle."""
    tumor = annotation.tumor(Window.over(info, 1.0, 1.0))
    rows, cols = np.flatnonzero(tumor.any(axis=1)), np.flatnonzero(tumor.any(axis=0))
    found = (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
    assert tumor.sum() == (found[2] - found[0]) * (found[3] - found[1])
    assert annotation.area_px == tumor.sum()
    marked = annotation.tumor_map(7.0, 7.0)
    inside = tumor[3::7, 3::7]
    assert (marked[: inside.shape[0], : inside.shape[1]] | ~inside).all()
    assert marked[: found[1] // 7 - 1].sum() == 0
    return tuple(int(v) for v in found)


def test_every_format_is_moved_into_the_slides_frame(
    slide: Path, tmp_path: Path
) -> None:
    info = info_of(slide)
    assert info.canvas == Canvas(offset_x=120, offset_y=90, width=500, height=400)
    for path in (
        write_asap(tmp_path / "asap.xml", ON_CANVAS),
        write_imagescope(tmp_path / "imagescope.xml", ON_CANVAS),
        write_geojson(tmp_path / "qupath.geojson", BOX),
        write_mask(tmp_path / "canvas.png", ON_CANVAS, CANVAS),
        write_mask(tmp_path / "bounds.png", BOX, SIZE),
    ):
        annotation = read_annotation(path, slide=info)
        assert box_of(annotation, info) == BOX, path.name


def test_a_smaller_mask_is_told_by_its_aspect(slide: Path, tmp_path: Path) -> None:
    info = info_of(slide)
    half = tuple(v // 2 for v in ON_CANVAS)
    path = write_mask(tmp_path / "half.png", half, (250, 200))
    assert box_of(read_annotation(path, slide=info), info) == (30, 20, 110, 80)
    path = write_mask(tmp_path / "other.png", (0, 0, 9, 9), (300, 100))
    with pytest.raises(SlideError, match=r"its canvas 500 x 400 px"):
        read_annotation(path, slide=info)


def test_outlines_that_only_fit_another_frame_are_asked_for(
    slide: Path, tmp_path: Path
) -> None:
    info = info_of(slide)
    # Counted from the canvas these would lie left of and above the scanned part.
    path = write_asap(tmp_path / "a.xml", BOX)
    with pytest.raises(SlideError, match="count from the whole canvas") as error:
        read_annotation(path, slide=info)
    assert error.value.hint == "say which is meant: --origin bounds or --origin canvas"
    assert box_of(read_annotation(path, slide=info, origin="bounds"), info) == BOX
    path = write_geojson(tmp_path / "a.geojson", ON_CANVAS)
    with pytest.raises(SlideError, match="count from the scanned bounds"):
        read_annotation(path, slide=info)
    assert box_of(read_annotation(path, slide=info, origin="canvas"), info) == BOX
    with pytest.raises(ValueError, match="origin 'glass': choose from canvas, bounds"):
        read_annotation(path, slide=info, origin="glass")  # type: ignore[arg-type]


def test_a_mask_that_may_be_either_is_asked_for(tmp_path: Path) -> None:
    canvas = Canvas(offset_x=10, offset_y=10, width=400, height=300)
    sizes = {"bounds": (200, 150), "canvas": canvas, "tolerance": 0.02}
    assert mask_origin((200, 150), **sizes) == "bounds"
    assert mask_origin((400, 300), **sizes) == "canvas"
    with pytest.raises(SlideError, match="may cover the whole canvas") as error:
        mask_origin((100, 75), **sizes)
    assert error.value.hint == "save it at the full size of what it covers"
    assert mask_origin((100, 75), **sizes, origin="canvas") == "canvas"
    assert mask_origin((100, 90), **sizes) is None
    # Aspects within 2 % of each other: the one that fits to a px.
    near = {"bounds": (1000, 750), "canvas": canvas, "tolerance": 0.02}
    near["canvas"] = Canvas(offset_x=0, offset_y=0, width=2000, height=1480)
    assert mask_origin((500, 370), **near) == "canvas"


def test_a_tissue_mask_is_cropped_to_the_slide(slide: Path) -> None:
    info = info_of(slide)
    mask = np.zeros((200, 250), np.bool_)  # of the canvas, at half its size
    mask[45:115, 60:160] = True
    assert crop_to_slide(mask, info).shape == (70, 100)
    assert crop_to_slide(mask, info).all()
    own = np.ones((70, 100), np.bool_)
    assert crop_to_slide(own, info) is own


def test_a_run_keeps_where_the_slide_lies(slide: Path, tmp_path: Path) -> None:
    config = from_tree({**SMALL, "tissue": {"tissue": "all"}})
    run = RunDirectory(tmp_path / "run")
    run.create()
    record = prepare_slide(SlideRow(slide_id="s", path=str(slide)), config, run)
    row = record.to_row()
    names = ("offset_x", "offset_y", "canvas_width", "canvas_height")
    assert tuple(row[name] for name in names) == (*OFFSET, *CANVAS)
    assert set(names) <= set(SLIDES.names)
    assert SlideRecord.from_row(row).canvas == info_of(slide).canvas
    older = {k: v for k, v in row.items() if k not in names}
    assert SlideRecord.from_row(older).canvas is None
    own = {"offset_x": 0, "offset_y": 0, "canvas_width": 9, "canvas_height": 8}
    assert canvas_of_row({"width": 9, "height": 8, **own}) is None


def test_a_finished_slide_of_an_older_run_asks_its_file(
    slide: Path, tmp_path: Path
) -> None:
    config = from_tree({**SMALL, "tissue": {"tissue": "all"}})
    run = RunDirectory(tmp_path / "run")
    run.create()
    record = prepare_slide(SlideRow(slide_id="s", path=str(slide)), config, run)
    older = replace(record, offset_x=None, canvas_width=None)
    gone = replace(older, path=str(tmp_path / "gone.scn"))
    shown = np.zeros((2, 2), np.float32)
    for kept, canvas in (
        (record, info_of(slide).canvas),
        (older, info_of(slide).canvas),
        (gone, None),
    ):
        found = FinishedSlide(
            record=kept,
            heatmap=Heatmap(
                channels=("probability",),
                data=shown[None],
                weight=shown,
                mpp_x=1.0,
                mpp_y=1.0,
            ),
            tissue=shown > 0,
            members=(),
        )
        assert found.canvas == canvas


def test_masks_are_compared_in_the_slides_frame(slide: Path, tmp_path: Path) -> None:
    row = SlideRow(
        slide_id="s",
        path=str(slide),
        annotation=str(write_asap(tmp_path / "a.xml", ON_CANVAS)),
    )
    area = (BOX[2] - BOX[0]) * (BOX[3] - BOX[1])
    for name, box, size in (("c", ON_CANVAS, CANVAS), ("b", BOX, SIZE)):
        predicted = write_mask(tmp_path / f"{name}.png", box, size)
        overlap = overlap_of_mask(row, predicted, AnnotationSpec(), {})
        assert (overlap.both, overlap.predicted, overlap.reference) == (area,) * 3
        assert overlap.pixels == SIZE[0] * SIZE[1]


def test_positions_are_those_of_deep_zoom_and_of_qupath(tmp_path: Path) -> None:
    # DeepZoom limits itself to the bounds as QuPath's OpenSlide server does.
    pixels = noise(*SIZE)
    path = write_scn(tmp_path / "s.scn", pixels, mpp=0.5, offset=OFFSET, canvas=CANVAS)
    with openslide.OpenSlide(str(path)) as raw, open_slide(path) as ours:
        zoom = DeepZoomGenerator(raw, tile_size=64, overlap=0, limit_bounds=True)
        tile = np.asarray(zoom.get_tile(zoom.level_count - 1, (1, 1)))
        np.testing.assert_array_equal(tile, ours.read_level(0, 64, 64, 64, 64))
        np.testing.assert_array_equal(tile, pixels[64:128, 64:128])


def test_a_tiff_without_its_first_tiles_keeps_its_own_positions(
    tmp_path: Path,
) -> None:
    pixels = noise(192, 256)
    path = write_levels(tmp_path / "a.tif", [pixels], mpp=1.0, tile=64)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[0].tags
        for name in ("TileOffsets", "TileByteCounts"):
            values = list(tags[name].value)
            tags[name].overwrite([0] * 6 + values[6:])  # two rows of three tiles
    want = pixels.copy()
    want[:128] = 255
    with openslide.OpenSlide(str(path)) as raw:
        assert raw.properties["openslide.bounds-y"] == "128"
    with open_slide(path) as slide:
        info = slide.info
        assert (info.width, info.height, info.canvas) == (192, 256, None)
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 192, 256), want)
    box = (20, 140, 90, 200)
    for drawn in (
        write_asap(tmp_path / "a.xml", box),
        write_mask(tmp_path / "a.png", box, (192, 256)),
    ):
        assert box_of(read_annotation(drawn, slide=info), info) == box
