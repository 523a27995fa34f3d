"""What a file means: tumor only where it says so, negative only if it is empty."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from digipath_ray.annotations import Annotation, read_annotation
from digipath_ray.annotations.account import Account
from digipath_ray.cli import run_app
from digipath_ray.cohort.drawn import (
    check_cohort_classes,
    check_label,
    describe_accounts,
)
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.distributed.fit import refuse_unclassified
from digipath_ray.evaluate.masks import evaluate_masks
from digipath_ray.schema import ANNOTATIONS, SAMPLES
from digipath_ray.slide.info import SlideError
from digipath_ray.training.sampled import ACCOUNT, PX_MM2, annotation_rows
from tests.drawings import (
    SLIDE,
    area,
    asap,
    feature,
    geojson,
    imagescope,
    region,
    ring,
    square,
)
from tests.slides import paint, write_pyramid

BOX = area(ring(0, 0, 50))
SQUARE = area(ring(10, 10, 10))
LINE = {"type": "LineString", "coordinates": [[0, 0], [5, 5]]}
TUMOR = {"name": "Tumor"}


def read(path: Path, **told: Any) -> Annotation:
    return read_annotation(path, slide=SLIDE, **told)


def refusal(path: Path, **told: Any) -> str:
    with pytest.raises(SlideError) as e:
        read(path, **told)
    return f"{e.value} | {e.value.hint}"


# --- what yields nothing is no negative


def geo(*features: dict[str, Any]) -> str:
    return json.dumps({"type": "FeatureCollection", "features": list(features)})


def scope(*regions: str) -> str:
    return f"<Annotations><Annotation>{''.join(regions)}</Annotation></Annotations>"


DOT = (
    '<ASAP_Annotations><Annotation Type="Dot" PartOfGroup="Tumor"><Coordinates>'
    '<Coordinate X="1" Y="1"/></Coordinates></Annotation></ASAP_Annotations>'
)
BAR = square(1, 1, 9)[:2]


@pytest.mark.parametrize(
    ("name", "text", "drawn"),
    [
        ("a.xml", DOT, "1 x a Dot"),
        ("a.xml", DOT.replace("Dot", "PointSet"), "1 x a PointSet"),
        ("a.xml", scope(region(BAR, kind=3), region(BAR, kind="Ruler")),
         "1 x a ruler, 1 x an arrow"),
        ("a.xml", scope(region(BAR, kind="PIN")), "1 x a pin"),
        ("a.xml", scope(region(square(1, 1, 9), kind="Cloud")),
         "1 x a region of type Cloud"),
        ("a.xml", scope(region(square(1, 1, 9), negative=True)),
         "1 x unclassified (hole)"),
        ("a.geojson", geo(feature(LINE, classification=TUMOR)), "1 x a LineString"),
        ("a.geojson", geo(feature(SQUARE, objectType="cell")), "1 x a cell"),
        ("a.geojson", geo(feature(SQUARE, object_type="tma_core")), "1 x a tmaCore"),
        ("a.geojson", geo(feature(SQUARE, classification="Region*")),
         "1 x Region* (not drawn)"),
        ("a.geojson", geo(feature(SQUARE, classification="Ignore*")),
         "1 x Ignore* (ignored)"),
        ("a.geojson", geo(feature(None)), "1 x no geometry"),
    ],
)  # fmt: skip
def test_things_of_which_none_is_tumor(
    tmp_path: Path, name: str, text: str, drawn: str
) -> None:
    (tmp_path / name).write_text(text)
    said = refusal(tmp_path / name)
    assert f"{name}: no tumor in what is drawn: {drawn} | " in said
    assert "label it negative" in said


def test_all_beyond_the_slide(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", square(200, 300, 50)))
    assert "1 outline within x 200 to 250 and y 300 to 350" in refusal(path)


def test_all_cut_out(tmp_path: Path) -> None:
    path = asap(
        tmp_path / "a.xml", ("Tumor", square(5, 5, 9)), ("_2", square(0, 0, 50))
    )
    assert "no tumor is left of 1 outline" in refusal(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.geojson", "[]"),
        ("a.geojson", geo()),
        ("a.xml", scope()),
        ("a.xml", "<ASAP_Annotations/>"),
    ],
)
def test_an_empty_file_is_a_negative(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read(tmp_path / name)
    assert (found.area_px, found.account.concerns) == (0, [])


def test_a_user_may_say_that_nothing_drawn_is_tumor(tmp_path: Path) -> None:
    path = geojson(tmp_path, feature(SQUARE, classification="Stroma"))
    assert read(path, classes={"Stroma": "skip"}).area_px == 0


def test_what_is_left_out_and_beyond_is_counted(tmp_path: Path) -> None:
    features = [
        feature(area(ring(90, 0, 40)), classification=TUMOR),
        feature(LINE, classification=TUMOR),
        feature(SQUARE, objectType="cell"),
        feature(area(ring(0, 60, 9), ring(70, 60, 2)), classification=TUMOR),
    ]
    account = read(geojson(tmp_path, features)).account
    # 10 of 40 px in x are on the slide: 1200 of 1681 px are not.
    assert account.beyond == pytest.approx(1200 / 1681)
    assert account.concerns == [
        "left out: 1 x a LineString, 1 x a cell, 1 x a hole outside its outline",
        "71.4 % of the tumor drawn lies beyond the slide",
    ]
    (use,) = account.classes
    assert (use.name, use.meaning, use.shapes, use.area_px) == (
        "Tumor",
        "tumor",
        2,
        481,
    )
    assert Account.from_json(account.to_json()) == account


def test_a_hole_outside_its_outline_adds_no_area(tmp_path: Path) -> None:
    crossed = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    path = geojson(tmp_path, area(crossed, ring(30, 30, 5)))
    assert read(path).area_px == 50


def test_a_hole_outside_every_outline_is_said(tmp_path: Path) -> None:
    path = asap(
        tmp_path / "a.xml", ("Tumor", square(5, 5, 9)), ("_2", square(50, 50, 5))
    )
    assert read(path).account.skipped == {"a hole outside every outline": 1}


# --- a name that is not known is not tumor


def test_what_has_no_class_beside_what_has_one(tmp_path: Path) -> None:
    both = [feature(BOX), feature(SQUARE, classification=TUMOR)]
    path = geojson(tmp_path, both)
    said = refusal(path)
    assert "outlines without a class (1) beside 1 x Tumor" in said
    assert "--classes unclassified=tumor" in said
    assert read(path, classes={"unclassified": "skip"}).area_px == 100
    assert read(path, classes={"unclassified": "tumor"}).area_px == 2500


def test_a_frame_is_no_class(tmp_path: Path) -> None:
    both = [feature(BOX, classification="Region*"), feature(SQUARE)]
    assert read(geojson(tmp_path, both)).area_px == 100


@pytest.mark.parametrize(
    "properties",
    [
        {"label": "stroma"},
        {"group": "stroma"},
        {"type": "stroma"},
        {"label": {"value": "stroma"}},
        {"classification": {"names": ["stroma", "Positive"]}},
        {"class": "stroma"},
    ],
)
def test_properties_that_hold_a_class(tmp_path: Path, properties: Any) -> None:
    said = refusal(geojson(tmp_path, feature(SQUARE, **properties)))
    assert "unknown class 'stroma" in said
    known = json.loads(json.dumps(properties).replace("stroma", "Tumor"))
    assert read(geojson(tmp_path, feature(SQUARE, **known))).area_px == 100


def test_one_name_is_no_class_and_several_are(tmp_path: Path) -> None:
    first, other = feature(SQUARE, name="mine"), feature(BOX, name="the rest")
    alone = read(geojson(tmp_path, [first]))
    assert alone.area_px == 100
    assert "'mine'" in alone.account.concerns[0]
    said = refusal(geojson(tmp_path, [first, other]))
    assert "unknown classes 'mine' (1), 'the rest' (1)" in said
    assert "--classes 'mine=ignored,the rest=ignored'" in said
    named = [feature(SQUARE, name="Tumor 1"), feature(BOX, name="Annotation 2")]
    assert "without a class (1) beside 1 x Tumor 1" in refusal(geojson(tmp_path, named))


@pytest.mark.parametrize("kind", ["objectType", "object_type", "type"])
def test_aliases_of_qupath(tmp_path: Path, kind: str) -> None:
    child = feature(BOX, **{kind: "cell"})
    parent = feature(SQUARE, **{kind: "annotation"}, children=[child])
    found = read(geojson(tmp_path, parent))
    assert (found.area_px, found.skipped) == (100, {"a cell": 1})


def test_our_own_exports(tmp_path: Path) -> None:
    features = [
        feature(SQUARE, classification=TUMOR, name="lesion 1"),
        feature(BOX, classification={"name": "Whole tumor"}, name="whole tumor region"),
    ]
    found = read(geojson(tmp_path, features))
    assert (found.area_px, found.account.concerns) == (
        100,
        ["not drawn: 1 x Whole tumor"],
    )


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ('{"annotation": {"elements": []}}', "DSA"),
        ('{"name": "x", "elements": []}', "DSA"),
        ('[{"annotation": {"elements": []}}]', "DSA"),
        ('{"images": [], "annotations": []}', "COCO"),
        ('{"shapes": [], "imagePath": "a.png"}', "LabelMe"),
        ('{"_via_img_metadata": {}}', "VGG"),
        ('{"a.png9": {"filename": "a.png", "regions": []}}', "VGG"),
        ('{"size": {}, "objects": []}', "Supervisely"),
    ],
)
def test_json_of_other_programs(tmp_path: Path, text: str, program: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert re.search(f"JSON of .*{program}.* export GeoJSON from QuPath", refusal(path))


@pytest.mark.parametrize("text", ["{}", "null", '{"features": []}', '{"a": 1}'])
def test_json_of_no_known_program(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert "not a GeoJSON feature" in refusal(path)


# --- ImageScope and HALO


def test_layers_of_unknown_name(tmp_path: Path) -> None:
    layers = (
        ("Tumor", [region(square(0, 0, 9))]),
        ("Stroma", [region(square(0, 0, 50))]),
    )
    path = imagescope(tmp_path / "a.xml", *layers)
    assert "unknown layer 'Stroma'" in refusal(path)
    assert read(path, classes={"2": "skip"}).area_px == 81


def test_texts_and_attributes_of_regions(tmp_path: Path) -> None:
    regions = [
        region(square(0, 0, 9), text="tumor"),
        region(square(20, 0, 9), text="fat"),
    ]
    path = imagescope(tmp_path / "a.xml", ("", regions))
    assert "unknown layer 'fat'" in refusal(path)
    assert read(path, classes={"fat": "skip"}).area_px == 81
    path = imagescope(
        tmp_path / "a.xml", ("", [region(square(0, 0, 9), attribute="Benign"),
                                  region(square(0, 0, 5), attribute="Carcinoma")])
    )  # fmt: skip
    assert "unknown layer 'Benign'" in refusal(path)


def test_layers_that_only_their_color_tells_apart(tmp_path: Path) -> None:
    layers = [("", [region(square(0, 0, 9))]), ("", [region(square(20, 0, 9))])]
    assert read(imagescope(tmp_path / "a.xml", *layers)).area_px == 162
    path = imagescope(tmp_path / "a.xml", *layers, colors=[255, 65280])
    assert "unknown layers '1' (1), '2' (1)" in refusal(path)
    assert read(path, classes={"1": "tumor", "2": "hole"}).area_px == 81
    numbered = [(f"Layer {i}", regions) for i, (_, regions) in enumerate(layers)]
    path = imagescope(tmp_path / "a.xml", *numbered)
    assert "unknown layers 'Layer 0' (1), 'Layer 1' (1)" in refusal(path)


def test_layers_of_paip(tmp_path: Path) -> None:
    layers = [("", [region(square(0, 0, 50))]), ("", [region(square(10, 10, 20))])]
    found = read(imagescope(tmp_path / "a.xml", *layers, colors=[1, 2]))
    assert found.area_px == 400
    assert "PAIP" in " ".join(found.account.concerns)
    alone = imagescope(tmp_path / "a.xml", ("whole", [region(square(0, 0, 50))]))
    assert "1 x whole (not drawn)" in refusal(alone)


@pytest.mark.parametrize("true", ["1", "true", "True", "TRUE", "yes"])
def test_negative_regions(tmp_path: Path, true: str) -> None:
    cut = region(square(2, 2, 4), negative=true)
    own = imagescope(tmp_path / "a.xml", ("", [region(square(0, 0, 10)), cut]))
    found = read(own)
    assert found.area_px == 84
    (hole,) = found.account.of("hole")
    assert (hole.name, hole.shapes, hole.area_px) == ("NegativeROA", 1, 16)
    apart = ("", [region(square(0, 0, 10))]), ("", [cut])
    assert read(imagescope(tmp_path / "a.xml", *apart)).area_px == 84


def test_shapes_of_halo(tmp_path: Path) -> None:
    regions = [
        region([(0, 0), (20, 10)], kind="Rectangle"),
        region([(2, 2), (6, 4)], kind="rectangle", negative=True),
        region([(40, 0), (60, 20)], kind="Ellipse"),
        region([(40, 40), (60, 40), (60, 60), (40, 60)], kind="ELLIPSE"),
        region([(1, 1), (9, 9)], kind="Ruler"),
    ]
    found = read(imagescope(tmp_path / "a.xml", ("Tumor", regions)))
    assert found.area_px == pytest.approx(200 - 8 + 2 * np.pi * 100, rel=0.001)
    assert found.skipped == {"a ruler": 1}


# --- labels, cohorts and commands


def test_a_label_of_tumor_with_an_annotation_of_none(tmp_path: Path) -> None:
    path = geojson(tmp_path, [])
    row = SlideRow(slide_id="s", path="s.svs", annotation=str(path), label="Macro")
    with pytest.raises(SlideError, match=r"labeled 'Macro', but its annotation"):
        check_label(row, read(path))
    check_label(SlideRow(slide_id="s", path="s.svs", label="Her2"), read(path))


def test_what_has_no_class_beside_other_files_that_have(tmp_path: Path) -> None:
    bare = read(geojson(tmp_path, feature(SQUARE))).account
    classed = read(geojson(tmp_path, feature(SQUARE, classification=TUMOR))).account
    scoped = imagescope(tmp_path / "a.xml", ("Tumor", [region(square(0, 0, 9))]))
    assert check_cohort_classes({"a": bare, "b": read(scoped).account}) == {}
    errors = check_cohort_classes({"a": bare, "b": classed})
    assert list(errors) == ["a"]
    assert "--classes unclassified=tumor" in errors["a"].hint


def test_a_fit_keeps_what_annotations_hold(tmp_path: Path) -> None:
    bare = read(geojson(tmp_path, feature(SQUARE))).account
    drawn = [feature(SQUARE, classification=TUMOR), feature(LINE)]
    classed = read(geojson(tmp_path, drawn)).account
    rows = [SlideRow(slide_id=i, path=f"{i}.svs", annotation="a") for i in "abc"]
    tables = {
        i: SAMPLES.empty_table().replace_schema_metadata(
            {ACCOUNT: account.to_json(), PX_MM2: "0.5"}
        )
        for i, account in (("a", bare), ("b", classed))
    }
    tables["c"] = SAMPLES.empty_table()  # a negative slide
    (first, second) = annotation_rows(rows, tables)
    assert (first["slide_id"], first["tumor_mm2"], first["concerns"]) == ("a", 50, [])
    assert second["classes"] == ["tumor: 1 x Tumor"]
    assert second["concerns"] == ["left out: 1 x a LineString"]
    pa.Table.from_pylist([first, second], schema=ANNOTATIONS)
    (failure,) = refuse_unclassified(rows, tables)
    assert (failure.slide_id, failure.step, set(tables)) == ("a", "prepare", {"b", "c"})
    assert "--classes unclassified=tumor" in failure.hint


def test_many_slides_are_not_all_named() -> None:
    accounts = {f"s{i}": Account(skipped={"a Dot": 1}) for i in range(25)}
    lines = list(describe_accounts(accounts))
    assert len(lines) == 21
    assert lines[0] == "annotation of s0: left out: 1 x a Dot"
    assert "5 more annotations" in lines[-1]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    tissue = np.zeros((160, 200))
    return write_pyramid(tmp_path / "s.tif", paint(tissue), mpp=0.5)


def test_info_shows_and_draws_an_annotation(
    tmp_path: Path,
    slide: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = asap(
        tmp_path / "a.xml",
        ("Tumor", square(20, 20, 80)),
        ("_2", square(30, 30, 20)),
        ("None", square(150, 20, 20)),
        ("Tumor", [(1, 1), (5, 5)]),
    )
    assert run_app(["info", "--annotation", str(path), str(slide)]) == 0
    out = capsys.readouterr().out
    # 6000 px of 0.25 um2 each.
    for text in ("0.002 mm2", "1 x Tumor", "1 x _2, 0.0001 mm2", "1 x None, 0.0001 mm2",
                 "left out: 1 x fewer than 3 points", "s_annotation.png"):  # fmt: skip
        assert text in out
    picture = np.asarray(Image.open(tmp_path / "s_annotation.png")).astype(int)
    plain = picture[150, 10]
    assert (picture[80, 80] != plain).any()
    assert (picture[40, 40] != picture[80, 80]).any()
    assert (picture[30, 160] != picture[80, 80]).any()


def test_info_says_how_to_go_on(
    tmp_path: Path, slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = asap(tmp_path / "a.xml", ("DCIS", square(20, 20, 80)))
    line = ["info", "--annotation", str(path), str(slide)]
    picture = ["--picture", str(tmp_path / "p.png")]
    assert run_app([*line, *picture]) == 1
    assert "--classes DCIS=ignored" in capsys.readouterr().out
    assert run_app([*line, *picture, "--classes", "DCIS=tumor"]) == 0
    assert "0.002 mm2" in capsys.readouterr().out
    (tmp_path / "t.tif").write_bytes(slide.read_bytes())
    assert run_app([*line, str(tmp_path / "t.tif")]) == 2


def test_scores_note_what_is_left_out(tmp_path: Path, slide: Path) -> None:
    for name in ("truth", "found"):
        (tmp_path / name).mkdir()
    drawn = ("Tumor", square(0, 0, 40)), ("Tumor", [(1, 1), (2, 2)])
    asap(tmp_path / "truth.xml", *drawn)
    manifest = tmp_path / "truth.csv"
    manifest.write_text("slide_id,path,annotation\ns,s.tif,truth.xml\n")
    pixels = np.zeros((160, 200), np.uint8)
    pixels[:40, :40] = 255
    Image.fromarray(pixels).save(tmp_path / "found" / "s.png")
    scores = evaluate_masks(manifest, tmp_path / "found", resamples=10)
    assert "annotation of s: left out: 1 x fewer than 3 points" in scores.notes
