"""The published folder layouts, as trees of empty files with the published names."""

import csv
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rich.console import Console

from digipath_ray.annotations import read_annotation
from digipath_ray.cli.cohort import write_cohort
from digipath_ray.cohort.datasets import DATASETS, DatasetCohort, read_dataset
from digipath_ray.cohort.datasets.camelyon import CAMELYON16_PARTLY_ANNOTATED
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import (
    ALIASES,
    SlideRow,
    read_manifest,
    write_manifest,
)
from tests.slides import noise, write_pyramid


@dataclass(frozen=True)
class Size:
    width: int
    height: int


LARGE = Size(220_000, 220_000)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def by_id(cohort: DatasetCohort) -> dict[str, SlideRow]:
    return {row.slide_id: row for row in cohort.rows}


# --- CAMELYON16


def test_camelyon16(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "training/normal/normal_001.tif",
        "training/tumor/tumor_001.tif",
        "training/tumor/tumor_002.tif",
        "training/tumor/tumor_010.tif",
        "training/lesion_annotations.zip",
        "training/lesion_annotations/tumor_001.xml",
        "training/lesion_annotations/tumor_010.xml",
        "testing/images/test_001.tif",
        "testing/images/test_002.tif",
        "testing/images/test_003.tif",
        "testing/lesion_annotations/test_001.xml",
        "testing/evaluation/evaluation_masks/test_001.tif",
        "testing/evaluation/test_001_mask.tif",
        "__MACOSX/training/tumor/tumor_001.tif",
        "training/tumor/._tumor_001.tif",
        "README.md",
    )
    reference = "test_001,Tumor,IDC,Macro\ntest_002,Normal,NA,None\n"
    (tmp_path / "testing/reference.csv").write_text(reference)
    cohort = read_dataset("camelyon16", tmp_path)
    drawn = tmp_path / "training/lesion_annotations"
    assert cohort.rows[0] == SlideRow(
        slide_id="normal_001",
        path=str(tmp_path / "training/normal/normal_001.tif"),
        exhaustive=True,
        patient_id="normal_001",
        label="negative",
        split="train",
    )
    assert cohort.rows[4] == SlideRow(
        slide_id="tumor_001",
        path=str(tmp_path / "training/tumor/tumor_001.tif"),
        annotation=str(drawn / "tumor_001.xml"),
        exhaustive=True,
        patient_id="tumor_001",
        label="tumor",
        split="train",
    )
    told = [(r.slide_id, r.label, r.exhaustive, r.split) for r in cohort.rows]
    assert told == [
        ("normal_001", "negative", True, "train"),
        ("test_001", "macro", True, "test"),
        ("test_002", "negative", True, "test"),
        ("test_003", None, False, "test"),
        ("tumor_001", "tumor", True, "train"),
        ("tumor_002", "tumor", False, "train"),
        ("tumor_010", "tumor", False, "train"),
    ]
    assert cohort.notes == [
        "partially annotated slides, which give tumor patches but no normal ones: 1",
        "slides of unknown label without annotation, which give no patches: 2",
    ]


def test_camelyon16_as_a_mirror_has_it(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/Tumor_001.TIF",
        "images/test_001.tif",
        "annotations/Tumor_001.xml",
        "annotations/test_001.xml",
        "masks/tumor_001.tif",
        "background_tissue/tumor_001.tif",
    )
    rows = by_id(read_dataset("camelyon16", tmp_path))
    assert rows["tumor_001"].path.endswith("images/Tumor_001.TIF")
    assert rows["tumor_001"].exhaustive is True
    # Without reference.csv, an annotation says that there is tumor.
    assert (rows["test_001"].label, rows["test_001"].exhaustive) == ("tumor", True)


def test_camelyon16_slides_that_are_known_to_be_faulty(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n}.tif" for n in ("normal_086", "normal_144", "test_049")))
    touch(tmp_path, *(f"tumor_{n:03d}.tif" for n in range(1, 112)))
    touch(tmp_path, *(f"tumor_{n:03d}.xml" for n in range(1, 112)))
    touch(tmp_path, "test_114.tif", "test_114.xml")
    cohort = read_dataset("camelyon16", tmp_path)
    partly = [r.slide_id for r in cohort.rows if r.annotation and not r.exhaustive]
    assert ",".join(partly) == (
        "test_114,tumor_010,tumor_015,tumor_018,tumor_020,tumor_025,tumor_029,"
        "tumor_033,tumor_034,tumor_044,tumor_046,tumor_051,tumor_054,tumor_055,"
        "tumor_056,tumor_067,tumor_079,tumor_085,tumor_092,tumor_095,tumor_110"
    )
    assert partly == sorted(CAMELYON16_PARTLY_ANNOTATED)
    rows = by_id(cohort)
    assert "test_049" not in rows
    assert (rows["normal_086"].label, rows["normal_144"].exhaustive) == (None, False)
    assert "test_049 is excluded: duplicate of another slide" in cohort.notes


def test_camelyon16_annotations_still_packed(tmp_path: Path) -> None:
    touch(tmp_path, "tumor/tumor_001.tif", "lesion_annotations.zip")
    notes = read_dataset("camelyon16", tmp_path).notes
    assert notes[0] == (
        f"extract {tmp_path}/lesion_annotations.zip: this folder has no annotations yet"
    )


def test_camelyon16_with_the_real_annotations(
    tmp_path: Path, shared_data: Path
) -> None:
    real = sorted((shared_data / "camelyon16/annotations").glob("*.xml"))
    touch(tmp_path, *(f"training/tumor/{f.stem}.tif" for f in real))
    shutil.copytree(real[0].parent, tmp_path / "training/lesion_annotations")
    rows = read_dataset("camelyon16", tmp_path).rows
    assert [Path(r.annotation or "").name for r in rows] == [f.name for f in real]
    # 015, 067, 079 and 085 are on the list.
    assert sum(bool(r.exhaustive) for r in rows) == 31 - 4


# --- CAMELYON17


def write_labels(folder: Path, text: str, name: str = "stage_labels.csv") -> None:
    (folder / name).write_text(f"patient,stage\n{text}")


def test_camelyon17(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "training/center_0/patient_000_node_0.tif",
        "training/center_0/patient_000_node_1.tif",
        "training/center_4/patient_099_node_4.tif",
        "training/center_4/patient_099_node_3.tif",
        "lesion_annotations/patient_099_node_3.xml",
        "lesion_annotations/patient_099_node_4.xml",
        "testing/patient_100_node_0.tif",
        "masks/patient_000_node_0_mask.tif",
    )
    write_labels(
        tmp_path,
        "patient_000.zip,pN1\npatient_000_node_0.tif,negative\n"
        "patient_000_node_1.tif,macro\npatient_000_node_2.tif,micro\n"
        "patient_099_node_3.tif,itc\npatient_099_node_4.tif,micro\n",
    )
    cohort = read_dataset("camelyon17", tmp_path)
    assert cohort.rows[3] == SlideRow(
        slide_id="patient_099_node_4",
        path=str(tmp_path / "training/center_4/patient_099_node_4.tif"),
        annotation=str(tmp_path / "lesion_annotations/patient_099_node_4.xml"),
        exhaustive=True,
        patient_id="patient_099",
        node="4",
        label="micro",
        split="train",
    )
    told = [(r.slide_id[8:], r.label, r.exhaustive, r.split) for r in cohort.rows]
    assert told == [
        ("000_node_0", "negative", True, "train"),
        ("000_node_1", "macro", False, "train"),
        ("099_node_3", "itc", False, "train"),
        ("099_node_4", "micro", True, "train"),
        ("100_node_0", None, False, "test"),
    ]
    assert cohort.notes[0] == "1 of 5 labeled slides are not in the folder"


def test_camelyon17_with_the_real_labels(tmp_path: Path, shared_data: Path) -> None:
    labels = shared_data / "camelyon17/stage_labels.csv"
    with labels.open() as file:
        names = [row["patient"] for row in csv.DictReader(file)]
    slides = [n for n in names if n.endswith(".tif")]
    touch(tmp_path, *(f"center_{int(n[8:11]) // 20}/{n}" for n in slides))
    shutil.copy(labels, tmp_path)
    shutil.copy(shared_data / "camelyon17/patient_004_node_4.xml", tmp_path)
    rows = read_dataset("camelyon17", tmp_path).rows
    assert len(rows) == 500
    assert len({r.patient_id for r in rows}) == 100
    counts = [sum(r.label == t for r in rows) for t in ("negative", "itc", "micro")]
    assert counts == [313, 35, 64]
    assert sum(r.label == "macro" for r in rows) == 88
    assert {r.split for r in rows} == {"train"}
    drawn = [r for r in rows if r.annotation]
    told = [(r.slide_id, r.label, r.exhaustive) for r in drawn]
    assert told == [("patient_004_node_4", "itc", False)]
    # Only negative slides and wholly annotated ones give normal patches.
    assert sum(bool(r.exhaustive) for r in rows) == 313


def test_camelyon17_labels_that_do_not_fit(tmp_path: Path) -> None:
    touch(tmp_path, "patient_000_node_0.tif")
    with pytest.raises(ValueError, match="no label for patient_000_node_0: put the"):
        read_dataset("camelyon17", tmp_path)
    write_labels(tmp_path, "patient_000_node_0.tif,large\n", "stages.csv")
    with pytest.raises(ValueError, match=r"node_0\.tif,large' has none of"):
        read_dataset("camelyon17", tmp_path)


# --- PAIP 2019


def test_paip2019(tmp_path: Path) -> None:
    one, two = "Training_phase_1/Training_phase_1_001", "Training_phase_2_021"
    touch(
        tmp_path,
        f"{one}/01_01_0083.svs",
        f"{one}/01_01_0083_viable.tif",
        f"{one}/01_01_0083_whole.tif",
        f"{one}/01_01_0083.xml",
        f"{two}/01_01_0094.SVS",
        f"{two}/viable.tiff",
        "Validation/01_01_0083a.svs",
        "Validation/01_01_0140.svs",
        "Validation/01_01_0140.xml",
    )
    cohort = read_dataset("paip2019", tmp_path)
    assert cohort.rows[0] == SlideRow(
        slide_id="01_01_0083",
        path=str(tmp_path / one / "01_01_0083.svs"),
        annotation=str(tmp_path / one / "01_01_0083_viable.tif"),
        exhaustive=True,
        patient_id="01_01_0083",
        label="tumor",
        split="train",
    )
    told = [(r.slide_id, r.annotation, r.exhaustive, r.split) for r in cohort.rows[1:]]
    assert told == [
        ("01_01_0083a", None, False, "validation"),
        ("01_01_0094", str(tmp_path / two / "viable.tiff"), True, "train"),
        ("01_01_0140", None, False, "validation"),
    ]


def test_paip2019_sorted_into_folders_by_kind(tmp_path: Path) -> None:
    touch(tmp_path, "OriginalImage/a.svs", "OriginalImage/ab.svs")
    touch(tmp_path, "ViableMask/a_viable.tif", "ViableMask/ab_viable.tif")
    rows = read_dataset("paip2019", tmp_path).rows
    assert [Path(r.annotation or "").name for r in rows] == [
        "a_viable.tif",
        "ab_viable.tif",
    ]
    assert rows[0].split is None


def test_paip2019_two_masks_of_one_slide(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "a_viable.tif", "a_viable_pyramid.tif")
    with pytest.raises(ValueError, match=r"a\.svs: two viable masks: .* keep one"):
        read_dataset("paip2019", tmp_path)


@pytest.mark.parametrize("swapped", [True, False])
def test_paip2019_case_018(tmp_path: Path, swapped: bool) -> None:
    folder = tmp_path / "Training_phase_1_018"
    folder.mkdir()
    slide = write_pyramid(folder / "01_01_0107.svs", noise(64, 64), mpp=0.5)
    small, large = np.zeros((2, 64, 64), np.uint8)
    small[:9, :9] = large[:40] = 1
    masks = {"viable": large, "whole": small} if swapped else {
        "viable": small, "whole": large,
    }  # fmt: skip
    for kind, mask in masks.items():
        tifffile.imwrite(folder / f"01_01_0107_{kind}.tif", mask, compression="lzw")
    cohort = read_dataset("paip2019", tmp_path)
    row = cohort.rows[0]
    taken = "whole" if swapped else "viable"
    assert row.annotation == str(slide.with_name(f"01_01_0107_{taken}.tif"))
    assert row.exhaustive is True
    assert "viable and whole are" in cohort.notes[0]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["a_viable.tif"], "may be swapped, and one is missing: ignored"),
        (["a_viable.tif", "a_whole.tif"], "may be swapped, and cannot be compared: "),
    ],
)
def test_paip2019_case_018_that_cannot_be_looked_at(
    tmp_path: Path, names: list[str], note: str
) -> None:
    folder = tmp_path / "Training_phase_1_018"
    touch(folder, "a.svs", *names)
    cohort = read_dataset("paip2019", tmp_path)
    assert (cohort.rows[0].annotation, cohort.rows[0].exhaustive) == (None, False)
    assert note in cohort.notes[0]


# --- DigestPath 2019

SCAN = "2018_64982_1-3_2019-02-25 21_57_36-lv1-31039-20240-5580-5236"


def test_digestpath2019(tmp_path: Path) -> None:
    negative = "tissue-train-neg/tissue-train-neg"
    touch(
        tmp_path,
        f"tissue-train-pos-v1/{SCAN}.jpg",
        f"tissue-train-pos-v1/{SCAN}_mask.jpg",
        "tissue-train-pos-v1/G1900703-2_2019-04-30 09_53_59-lv1-1-2-3-4.jpg",
        f"{negative}/D20190481111_2019-06-10 09_22_49-lv1.jpg",
        f"{negative}/D20190481111_2019-06-10 09_22_49-lv1_mask.jpg",
        "sig-train-pos/2018_1-1_2019-01-01.jpeg",
    )
    cohort = read_dataset("digestpath2019", tmp_path)
    assert cohort.rows[0] == SlideRow(
        slide_id=SCAN,
        path=str(tmp_path / f"tissue-train-pos-v1/{SCAN}.jpg"),
        annotation=str(tmp_path / f"tissue-train-pos-v1/{SCAN}_mask.jpg"),
        exhaustive=True,
        patient_id="2018_64982",
        label="tumor",
        split="train",
    )
    told = [
        (r.patient_id, r.label, r.annotation, r.exhaustive) for r in cohort.rows[1:]
    ]
    assert told == [
        ("D20190481111", "negative", None, True),
        ("G1900703", "tumor", None, False),
    ]
    assert cohort.notes[0].startswith("the images have no mpp: give --slide-mpp")


def test_digestpath2019_names_without_a_date(tmp_path: Path) -> None:
    touch(tmp_path, "tissue_train_neg/some image.JPG")
    assert read_dataset("digestpath2019", tmp_path).rows[0].patient_id == "some image"


# --- all of them


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("camelyon16", "training/normal/normal_001.tif"),
        ("camelyon17", "training/center_0/patient_000_node_0.tif"),
        ("paip2019", "Training_phase_1/Training_phase_1_001/01_01_0083.svs"),
        ("digestpath2019", "tissue-train-pos-v1/NAME.jpg and NAME_mask.jpg"),
    ],
)
def test_a_folder_of_something_else_shows_the_layout(
    tmp_path: Path, name: str, shown: str
) -> None:
    touch(tmp_path, "slides/a.svs", "slides/b.tif", "c.jpg")
    with pytest.raises(ValueError, match=r"no files of .* in this folder") as e:
        read_dataset(name, tmp_path)
    assert shown in str(e.value)


def test_no_such_dataset_or_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset 'pcam': choose from camelyon16, "):
        read_dataset("pcam", tmp_path)
    with pytest.raises(ValueError, match="gone: folder not found"):
        read_dataset("camelyon16", tmp_path / "gone")
    assert list(DATASETS) == ["camelyon16", "camelyon17", "paip2019", "digestpath2019"]


def test_one_slide_in_two_places(tmp_path: Path) -> None:
    touch(tmp_path, "a/tumor_001.tif", "b/tumor_001.tif")
    with pytest.raises(
        ValueError, match=r"two files for one slide: .*a/tumor_001\.tif"
    ):
        read_dataset("camelyon16", tmp_path)


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/tumor_001.tif", "here/readme.txt")
    (tmp_path / "here/training").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "here")
    rows = read_dataset("camelyon16", tmp_path / "here").rows
    assert [r.slide_id for r in rows] == ["tumor_001"]


# --- manifests

ROWS = [
    SlideRow(
        slide_id="a",
        path="/data/a, b.svs",
        mpp=0.2431,
        mask="/data/a.png",
        annotation="/data/a.xml",
        exhaustive=False,
        patient_id="007",
        node="4",
        label="itc",
        split="train",
    ),
    SlideRow(slide_id="ä", path="s3://bucket/ä.svs", exhaustive=True),
]


@pytest.mark.parametrize("name", ["c.csv", "c.TSV", "c.parquet"])
def test_a_manifest_is_read_back_as_it_was(tmp_path: Path, name: str) -> None:
    write_manifest(ROWS, tmp_path / name)
    assert [row for row, _ in read_manifest(tmp_path / name)] == ROWS


def test_a_manifest_as_text(tmp_path: Path) -> None:
    write_manifest(ROWS, tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_text(encoding="utf-8") == (
        "slide_id,path,mpp,mask,annotation,exhaustive,patient_id,node,label,split\n"
        'a,"/data/a, b.svs",0.2431,/data/a.png,/data/a.xml,false,007,4,itc,train\n'
        "ä,s3://bucket/ä.svs,,,,true,,,,\n"
    )
    assert list(ALIASES) == [f.name for f in fields(SlideRow)]


def test_manifests_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"c\.xlsx: call it \.csv or \.tsv or \.parquet"
    ):
        write_manifest(ROWS, tmp_path / "c.xlsx")
    with pytest.raises(ValueError, match="no slide to write"):
        write_manifest([], tmp_path / "c.csv")


# --- the command


def test_the_command_writes_a_cohort_that_can_be_read(
    tmp_path: Path, shared_data: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "new/cohort.csv"
    touch(data, "tumor_012.tif", "tumor_015.tif", "normal_001.tif")
    for name in ("tumor_012", "tumor_015"):
        shutil.copy(shared_data / f"camelyon16/annotations/{name}.xml", data)
    console = Console(record=True, width=200)
    assert write_cohort(console, "camelyon16", data, out, overwrite=False) == 0
    assert [line.split() for line in console.export_text().splitlines()[:3]] == [
        ["split", "label", "slides", "annotated", "exhaustively"],
        ["train", "negative", "1", "0", "0"],
        ["train", "tumor", "2", "2", "1"],
    ]
    rows = read_cohort([out])
    assert [r.slide_id for r in rows] == ["normal_001", "tumor_012", "tumor_015"]
    assert read_annotation(str(rows[1].annotation), slide=LARGE).area_px > 1e6
    with pytest.raises(ValueError, match=r"cohort\.csv: exists: give --overwrite"):
        write_cohort(console, "camelyon16", data, out, overwrite=False)
    assert write_cohort(console, "camelyon16", data, out, overwrite=True) == 0
