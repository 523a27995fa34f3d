import csv
import io
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from rich.console import Console

from digipath_ray.cli.export import export_run as export_command
from digipath_ray.export import FORMATS, export_run
from digipath_ray.export import formats as formats_module
from digipath_ray.export.csv_tables import format_cell
from digipath_ray.export.dicom_seg import (
    make_segmentation,
    quantize,
    write_segmentations,
)
from digipath_ray.export.dicom_source import (
    derive_uid,
    find_source,
    make_source,
    place_on_glass,
)
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.features import FEATURES, FEATURES_SCHEMA
from digipath_ray.outcome.staging import Metastasis, stage_patient
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from tests.finished_runs import Made, draw_heatmap, failure_of, slide_row, write_run

ONE = Made(
    slide_id="p1_node_1",
    lesions=((1500, 1500, 700, 0.95),),
    outcome={"votes": ["macro", "micro"], "burden": 0.1 + 0.2},
    slide={"patient_id": "p1", "qc": ["ink", "blur"]},
)
TWO = Made(slide_id="p1_node_2", slide={"patient_id": "p1"})
DIGEST = "d" * 64


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# CSV


def test_every_table_becomes_a_csv_with_the_same_values(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        [ONE, TWO],
        failures=[failure_of("p1_node_3", "p1", error="one, two\nthree")],
        patients=[stage_patient("p1", [Metastasis.MACRO, None])],
    )
    features = {"slide_id": "p1_node_1", **dict.fromkeys(FEATURES, 0.125)}
    run.write_table(run.features, [features], FEATURES_SCHEMA)

    exported = export_run(run, tmp_path / "out", format="csv")

    assert [path.name for path in exported.files] == [
        "outcomes.csv", "features.csv", "patients.csv", "failures.csv", "columns.csv",
    ]  # fmt: skip
    first, second = rows_of(tmp_path / "out" / "outcomes.csv")
    assert first["slide_id"] == "p1_node_1"
    assert (first["qc"], second["qc"]) == ("ink;blur", "")
    assert (first["votes"], second["votes"]) == ("macro;micro", "")
    assert float(first["burden"]) == 0.1 + 0.2
    assert first["upsampled"] == "false"
    (patient,) = rows_of(tmp_path / "out" / "patients.csv")
    assert (patient["pn_stage"], patient["complete"]) == ("pN1", "false")
    (failure,) = rows_of(tmp_path / "out" / "failures.csv")
    assert failure["error"] == "one, two\nthree"
    (measured,) = rows_of(tmp_path / "out" / "features.csv")
    assert len(measured) == 33
    assert set(measured.values()) == {"p1_node_1", "0.125"}


def test_every_column_is_explained(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [ONE])

    export_run(run, tmp_path / "out", format="csv")

    columns = rows_of(tmp_path / "out" / "columns.csv")
    assert {c["table"] for c in columns} == {"outcomes", "failures"}
    assert {
        "table": "outcomes",
        "column": "tissue_mm2",
        "kind": "double",
        "meaning": "area of the tissue mask, mm2",
    } in columns
    assert all(column["meaning"] for column in columns)


def test_cells_read_back_as_what_they_were() -> None:
    assert format_cell(None) == ""
    assert format_cell(True) == "true"
    assert format_cell(["a", "b"]) == "a;b"
    assert format_cell([]) == ""
    assert format_cell(0.1) == "0.1"
    assert format_cell(7) == "7"


# GeoJSON


def test_outlines_are_copied_as_they_are(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [ONE, TWO])
    run.lesions("p1_node_1").write_text('{"type": "FeatureCollection"}')

    exported = export_run(run, tmp_path / "out", format="geojson")

    assert exported.files == (tmp_path / "out" / "p1_node_1.geojson",)
    assert exported.files[0].read_text() == '{"type": "FeatureCollection"}'
    assert exported.left_out == ("p1_node_2: no outlines in lesions/",)


def test_a_run_without_outlines_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [ONE])

    with pytest.raises(RunError, match="has no outlines: lesions/ is empty"):
        export_run(run, tmp_path / "out", format="geojson")


# DICOM


def probability_of(made: hd.seg.Segmentation, folder: Path) -> np.ndarray:
    """The whole matrix [rows, cols], written and read back."""
    made.save_as(folder / "seg.dcm")
    read = hd.seg.segread(folder / "seg.dcm")
    return read.get_total_pixel_matrix()[..., 0]


def corners_mm(image: pydicom.Dataset, px: list[tuple[float, float]]) -> np.ndarray:
    """Places (x, y) of a matrix, px from its outer corner, in the slide's frame."""
    measures = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = image.TotalPixelMatrixOriginSequence[0]
    to_slide = hd.spatial.ImageToReferenceTransformer(
        image_position=[
            float(origin.XOffsetInSlideCoordinateSystem),
            float(origin.YOffsetInSlideCoordinateSystem),
            0.0,
        ],
        image_orientation=[float(v) for v in image.ImageOrientationSlide],
        pixel_spacing=[float(v) for v in measures.PixelSpacing],
    )
    return to_slide(np.array(px))


def test_a_segmentation_holds_the_probability_to_1_in_255(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [ONE])

    (path,), left_out = write_segmentations(run, tmp_path / "out")

    assert left_out == {}
    assert path == tmp_path / "out" / "p1_node_1.dcm"
    made = hd.seg.segread(path)
    expected = draw_heatmap(ONE).probability
    found = made.get_total_pixel_matrix()[..., 0]
    assert found.shape == expected.shape == (188, 250)
    assert np.abs(found - expected).max() <= 0.5 / 255 + 1e-6
    assert found.max() == pytest.approx(242 / 255)
    assert made.SegmentationType == "FRACTIONAL"
    assert made.SegmentationFractionalType == "PROBABILITY"
    assert made.ContentDescription == "Tumor probability; for research use only"
    segment = made.get_segment_description(1)
    assert segment.segmented_property_type.meaning == "Neoplasm"


def test_many_tiles_make_one_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (1, 700, 1100)).astype(np.float32) / 255
    data[:, 100:, :600] = 0
    heatmap = Heatmap(
        channels=("probability",),
        data=data,
        weight=np.ones((700, 1100), np.float32),
        mpp_x=4.0,
        mpp_y=4.0,
    )

    made = make_segmentation(heatmap, slide_row(ONE), digest=DIGEST)

    assert (made.Rows, made.Columns) == (512, 512)
    # Of 2 x 3 tiles one has nothing in it.
    assert made.NumberOfFrames == 5
    assert np.array_equal(probability_of(made, tmp_path), data[0])


def test_a_slide_without_any_tumor_has_a_segmentation(tmp_path: Path) -> None:
    made = make_segmentation(draw_heatmap(TWO), slide_row(TWO), digest=DIGEST)

    assert probability_of(made, tmp_path).max() == 0


def test_the_map_lies_on_the_slide_whatever_the_shape_of_its_pixels() -> None:
    slide = {**slide_row(ONE), "mpp_x": 0.25, "mpp_y": 0.5}
    heatmap = replace(draw_heatmap(ONE), mpp_x=4.0, mpp_y=6.0)

    made = make_segmentation(heatmap, slide, digest=DIGEST)
    source = make_source(slide)

    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.006, 0.004]
    assert made.TotalPixelMatrixColumns == 250
    assert made.TotalPixelMatrixRows == 188
    # Both start in the same corner; 10 x 20 px of the map are 160 x 240 of the slide.
    assert corners_mm(made, [(0, 0), (10, 20)]) == pytest.approx(
        corners_mm(source, [(0, 0), (160, 240)]), abs=1e-9
    )


def test_a_slide_that_is_no_dicom_gets_lasting_identifiers() -> None:
    slide, other = slide_row(ONE), slide_row(TWO)
    first, again, second = make_source(slide), make_source(slide), make_source(other)
    named = [make_source(s, with_patient=True).StudyInstanceUID for s in (slide, other)]

    assert first == again
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID != second.StudyInstanceUID
    assert named[0] == named[1]  # the same patient
    assert first.FrameOfReferenceUID != second.FrameOfReferenceUID
    assert (first.TotalPixelMatrixColumns, first.TotalPixelMatrixRows) == (4000, 3000)
    assert derive_uid("a").is_valid


def test_a_segmentation_names_its_slide_and_if_asked_its_patient() -> None:
    slide = slide_row(ONE)

    made = make_segmentation(draw_heatmap(ONE), slide, digest=DIGEST, with_patient=True)
    unnamed = make_segmentation(draw_heatmap(ONE), slide, digest=DIGEST)

    source = make_source(slide, with_patient=True)
    assert unnamed.PatientID.startswith("ANON-")
    assert (unnamed.PatientName, unnamed.PatientIdentityRemoved) == ("", "YES")
    assert "PatientIdentityRemoved" not in made
    assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert (made.PatientID, made.ContainerIdentifier) == ("p1", "p1_node_1")
    series = made.ReferencedSeriesSequence[0]
    named = series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    assert named == source.SOPInstanceUID


def test_long_and_foreign_names_are_kept_as_dicom_allows(tmp_path: Path) -> None:
    slide = {**slide_row(ONE), "patient_id": "Zoë\\" + "x" * 100, "slide_id": "é" * 90}
    made = make_segmentation(draw_heatmap(ONE), slide, digest=DIGEST, with_patient=True)
    made.save_as(tmp_path / "seg.dcm")

    read = pydicom.dcmread(tmp_path / "seg.dcm")

    assert read.PatientID == "Zoë/" + "x" * 59
    assert read.ContainerIdentifier == "é" * 32


def test_a_dicom_slide_is_referred_to_itself(shared_data: Path) -> None:
    file = shared_data / "wsi" / "boxes_dcm" / "boxes_1.dcm"
    slide = {
        **slide_row(ONE),
        "path": str(file),
        "width": 16,
        "height": 16,
        "mpp_x": 0.499,
        "mpp_y": 0.499,
    }
    heatmap = Heatmap(
        channels=("probability",),
        data=np.ones((1, 4, 4), np.float32),
        weight=np.ones((4, 4), np.float32),
        mpp_x=1.996,
        mpp_y=1.996,
    )

    source = find_source(slide)
    made = make_segmentation(heatmap, slide, digest=DIGEST)

    # boxes_1 is the series' thumbnail: the volume beside it is meant.
    own = pydicom.dcmread(file.with_name("boxes_0.dcm"), stop_before_pixels=True)
    assert source.SOPInstanceUID == own.SOPInstanceUID
    assert made.FrameOfReferenceUID == own.FrameOfReferenceUID
    assert made.StudyInstanceUID == own.StudyInstanceUID
    assert made.ImageOrientationSlide == [0, -1, 0, -1, 0, 0]
    assert corners_mm(made, [(0, 0), (4, 4)]) == pytest.approx(
        corners_mm(own, [(0, 0), (16, 16)]), abs=1e-9
    )


def test_a_file_that_only_looks_like_dicom_is_made_up(tmp_path: Path) -> None:
    path = tmp_path / "slide.dcm"
    path.write_bytes(b"no DICOM")
    slide = {**slide_row(ONE), "path": str(path)}

    named = find_source(slide, with_patient=True)
    assert named == make_source(slide, with_patient=True)


# What cannot be done


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="format 'xlsx': choose from csv, geojson, dic"
    ):
        export_run(RunDirectory(tmp_path), tmp_path, format="xlsx")


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, format: str) -> None:
    with pytest.raises(RunError, match=r"run\.toml is missing: give the folder of"):
        export_run(RunDirectory(tmp_path), tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_only_begun_has_nothing_to_export(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")

    for format, said in (("csv", "no table"), ("dicom-seg", "no finished slide")):
        with pytest.raises(RunError, match=said):
            export_run(RunDirectory(tmp_path), tmp_path / "out", format=format)


def test_without_highdicom_the_fix_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats_module, "find_spec", lambda name: None)
    run = write_run(tmp_path, [TWO])

    with pytest.raises(ValueError, match=r"pip install 'digipath_ray\[dicom\]'"):
        export_run(run, tmp_path / "out", format="dicom-seg")


# The command


def test_a_slide_without_heatmap_costs_its_segmentation_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [ONE, TWO])
    run.heatmap("p1_node_1").unlink()
    console = Console(file=io.StringIO(), width=200)
    assert export_command(console, run.root, tmp_path / "out", "dicom-seg") == 1
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["p1_node_2.dcm"]
    assert "left out  p1_node_1: [Errno 2]" in console.file.getvalue()


def test_what_was_not_predicted_is_0_in_a_segmentation() -> None:
    heatmap = draw_heatmap(ONE)
    heatmap.probability[heatmap.weight == 0] = np.nan
    assert np.isfinite(quantize(heatmap)).all()


def test_the_command_says_what_was_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [ONE, TWO])
    run.lesions("p1_node_1").write_text("{}")
    console = Console(file=io.StringIO(), width=200)
    out = tmp_path / "out"

    assert export_command(console, run.root, out, "geojson") == 1
    assert export_command(console, run.root, out, "csv") == 0

    said = console.file.getvalue()
    assert "left out  p1_node_2: no outlines in lesions/" in said
    assert f"geojson   {out} (1 file)" in said
    assert f"csv       {out} (3 files)" in said


@pytest.mark.parametrize(
    ("along_x", "along_y", "first"),
    [
        (15.0, 25.0, (20.0, 50.0)),  # 5 mm and 25 mm of glass on both sides
        (25.0, 75.0, (25.0, 75.0)),
        (30.0, 80.0, (30.0, 80.0)),  # too large: it begins at the corner
    ],
)
def test_a_made_up_image_lies_on_the_glass(
    along_x: float, along_y: float, first: tuple[float, float]
) -> None:
    assert place_on_glass(along_x=along_x, along_y=along_y) == first
    # Rows and columns run against the axes, so the last pixel has the least offsets.
    assert first[0] - along_x >= 0
    assert first[1] - along_y >= 0
