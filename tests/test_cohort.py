from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.cohort.manifest import ALIASES


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def manifest(folder: Path, text: str, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def ids(*inputs: str | Path) -> list[str]:
    return [row.slide_id for row in read_cohort(inputs)]


# Files, folders, globs


def test_files_in_the_order_named(tmp_path: Path) -> None:
    b, a = touch(tmp_path, "b.svs", "a.ndpi")
    assert read_cohort([b, str(a)]) == [
        SlideRow(slide_id="b", path=str(b)),
        SlideRow(slide_id="a", path=str(a)),
    ]


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "slides/a.svs")
    monkeypatch.chdir(tmp_path)
    for name in ("slides/a.svs", "slides", "slides/*.svs"):
        assert read_cohort([name])[0].path == str(tmp_path / "slides" / "a.svs")


def test_names_with_dots_keep_their_full_stem(tmp_path: Path) -> None:
    (slide,) = touch(tmp_path, "TCGA-A2-A0CM-01Z-00-DX1.AC4901DE-4B6D.svs")
    assert ids(slide) == ["TCGA-A2-A0CM-01Z-00-DX1.AC4901DE-4B6D"]


def test_a_folder_is_searched_recursively(tmp_path: Path) -> None:
    touch(tmp_path, "c.TIF", "sub/b.png", "sub/deep/a.mrxs", "notes.txt", "x.csv")
    touch(tmp_path, ".hidden.svs", "._a.svs", ".cache/d.svs")
    assert ids(tmp_path) == ["c", "b", "a"]


def test_an_mrxs_slide_and_its_data_folder_are_one_slide(tmp_path: Path) -> None:
    touch(tmp_path, "m.mrxs", "m/Data0000.dat", "m/Slidedat.ini", "m/label.png")
    assert ids(tmp_path) == ["m"]
    # What a shell makes of *: both.
    assert ids(tmp_path / "m", tmp_path / "m.mrxs") == ["m"]
    assert ids(tmp_path / "*") == ["m"]


def test_a_hamamatsu_slide_and_its_jpegs_are_one_slide(tmp_path: Path) -> None:
    touch(tmp_path, "h.vms", "h.jpg", "h(1,0).jpg", "h_map2.jpg", "other.jpg")
    assert ids(tmp_path) == ["h", "other"]


def test_a_dicom_series_is_one_slide(tmp_path: Path) -> None:
    touch(tmp_path, "s1/1.dcm", "s1/2.dcm", "s2/1.dcm", "s2/.3.dcm")
    assert ids(tmp_path) == ["s1", "s2"]
    rows = read_cohort([tmp_path / "s1" / "2.dcm", tmp_path / "s1" / "1.dcm"])
    assert [row.path for row in rows] == [str(tmp_path / "s1" / "1.dcm")]


def test_a_linked_folder_is_followed_a_loop_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "far/a.svs", "near/b.svs")
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "loop").symlink_to(tmp_path / "near")
    assert ids(tmp_path / "near") == ["b", "a"]


def test_a_glob_the_shell_did_not_expand(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a.svs", "p1/readme.txt", "p2/b.svs", "p2/q/c.svs")
    assert ids(str(tmp_path / "p?" / "*.svs")) == ["a", "b"]
    assert ids(str(tmp_path / "p1" / "*")) == ["a"]
    assert ids(str(tmp_path / "**" / "*.svs")) == ["a", "b", "c"]
    assert ids(str(tmp_path / "p[2]")) == ["b", "c"]


def test_brackets_in_a_file_name_are_no_pattern(tmp_path: Path) -> None:
    (slide,) = touch(tmp_path, "a[1].svs")
    assert ids(slide) == ["a[1]"]


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    (slide,) = touch(tmp_path, "a.svs")
    assert ids(slide, tmp_path, str(tmp_path / "*.svs")) == ["a"]


def test_inputs_that_match_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no slides named: give files, folders"):
        read_cohort([])
    with pytest.raises(ValueError, match=r"no\.svs: file or folder not found"):
        read_cohort([tmp_path / "no.svs"])
    with pytest.raises(ValueError, match="the pattern matches no slide"):
        read_cohort([str(tmp_path / "*.svs")])
    with pytest.raises(ValueError, match="no slide in this folder"):
        read_cohort([tmp_path])


def test_a_folder_with_only_a_manifest_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "cohort.csv", "notes.txt")
    with pytest.raises(
        ValueError, match=r"no slide in this folder.*: name cohort\.csv"
    ):
        read_cohort([tmp_path])


def test_one_id_for_two_files_names_both_and_the_fix(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a.svs", "p2/a.tif")
    with pytest.raises(ValueError, match="twice") as error:
        read_cohort([tmp_path])
    assert str(error.value) == (
        f"slide_id 'a' twice: {tmp_path}/p1/a.svs and {tmp_path}/p2/a.tif: give each "
        "its own slide_id in a manifest (columns slide_id,path)"
    )


def test_a_file_name_that_is_no_id_is_refused(tmp_path: Path) -> None:
    (slide,) = touch(tmp_path, "a:b.svs")
    with pytest.raises(ValueError, match=r"be a file name, it holds ':'.*rename"):
        read_cohort([slide])


# Manifests


def test_a_full_manifest(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "slide_id,path,mpp,mask,annotation,exhaustive,patient_id,node,label,split\n"
        "007,slides/a.svs,0.25,m/a.png,x/a.xml,true,p1,n2,macro,train\n"
        "s2,/data/b.svs,,,,,,,,\n",
    )
    assert read_cohort([path]) == [
        SlideRow(
            slide_id="007",
            path=f"{tmp_path}/slides/a.svs",
            mpp=0.25,
            mask=f"{tmp_path}/m/a.png",
            annotation=f"{tmp_path}/x/a.xml",
            exhaustive=True,
            patient_id="p1",
            node="n2",
            label="macro",
            split="train",
        ),
        SlideRow(slide_id="s2", path="/data/b.svs"),
    ]


def test_the_id_defaults_to_the_stem(tmp_path: Path) -> None:
    assert ids(manifest(tmp_path, "path\nx/a.b.svs\nc.tif\n")) == ["a.b", "c"]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("sample_id,image_path,mask_path,spacing_at_level_0,patient_id", "hs2p"),
        ("Sample ID,Image-Path,MASK PATH,Spacing_At_Level_0,PatientID", "any case"),
        ("slide,wsi,tissue_mask,mpp,patient", "trident"),
        ("slide_id,slide_path,mask,slide-mpp,case_id", "clam"),
    ],
)
def test_other_tools_column_names(tmp_path: Path, header: str, row: str) -> None:
    path = manifest(tmp_path, f"{header}\n{row},/a.svs,/m.png,0.5,p1\n")
    assert read_cohort([path]) == [
        SlideRow(slide_id=row, path="/a.svs", mask="/m.png", mpp=0.5, patient_id="p1")
    ]


def test_tabs_semicolons_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    want = [SlideRow(slide_id="a", path="/x, y.svs", mpp=0.5)]
    tabs = manifest(tmp_path, "slide_id\tpath\tmpp\na\t/x, y.svs\t0.5\n", "c.tsv")
    semicolons = manifest(tmp_path, "slide_id;path;mpp\na;/x, y.svs;0.5\n", "s.csv")
    quotes = manifest(
        tmp_path, '\ufeffslide_id,path,mpp\r\na,"/x, y.svs",0.5\r\n', "q.csv"
    )
    for path in (tabs, semicolons, quotes):
        assert read_cohort([path]) == want


def test_empty_lines_and_missing_cells(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,mpp,node\n\n/a.svs\n,,\n/b.svs,NA,nan\n")
    assert read_cohort([path]) == [
        SlideRow(slide_id="a", path="/a.svs"),
        SlideRow(slide_id="b", path="/b.svs"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nslide_id;path;mpp\na;/x, y.svs;0,25\n",
        "sep=\t\nslide_id\tpath\tmpp\na\t/x, y.svs\t0.25\n",
        "slide_id\tpath\tmpp\na\t/x, y.svs\t0.25\n",
        "# drawn on Monday\n\nslide_id;path;mpp\na;/x, y.svs;0.25\n",
        'slide_id,path,mpp\n#5\n# and so on, later\na,"/x, y.svs",0.25\n#end,,\n',
        'slide_id , path,mpp\na,"/x, y.svs","0,25"\n',
        'slide_id,path,mpp,,\na,"/x, y.svs",0.25,,\n',
        'slide_id,path,mpp\na,"/x, y.svs",0.25,,,\n',
    ],
)
def test_what_spreadsheets_write_around_a_table(tmp_path: Path, text: str) -> None:
    want = [SlideRow(slide_id="a", path="/x, y.svs", mpp=0.25)]
    assert read_cohort([manifest(tmp_path, text)]) == want


def test_lines_are_counted_from_the_files_first(tmp_path: Path) -> None:
    path = manifest(tmp_path, "sep=,\n# note\npath,mpp\n/a.svs,1\n/b.svs,x\n")
    with pytest.raises(ValueError, match=r"cohort.csv, line 5, column mpp: 'x'"):
        read_cohort([path])


@pytest.mark.parametrize("title", ["Cohort of 2026", "Cohort,,", "Cohort;of;2026"])
def test_a_title_above_the_columns_is_named(tmp_path: Path, title: str) -> None:
    path = manifest(tmp_path, f"{title}\nslide_id,path,mpp\na,/a.svs,1\n")
    with pytest.raises(ValueError, match=r"remove (a title|the lines) above"):
        read_cohort([path])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NA",
        "N/A",
        "#N/A",
        "NaN",
        "nan",
        "None",
        "none",
        "<NA>",
        "null",
        "NULL",
        "-",
    ],
)
def test_missing_is_missing_in_every_column(tmp_path: Path, text: str) -> None:
    names = [name for name in ALIASES if name not in ("slide_id", "path")]
    path = manifest(
        tmp_path,
        f"slide_id,path,{','.join(names)}\na,/a.svs,{','.join([text] * len(names))}\n",
    )
    (row,) = read_cohort([path])
    assert row == SlideRow(slide_id="a", path="/a.svs")
    assert not row.is_negative, "a missing label does not say that there is no tumor"


def test_ids_are_text_and_whole_numbers_one(tmp_path: Path, caplog) -> None:
    path = manifest(
        tmp_path,
        "slide_id,path,patient_id,node\na,/a.svs,1.0,007\nb,/b.svs,1,08\n"
        "c,/c.svs,2.0,1.0\nd,/d.svs,,1.5\n",
    )
    rows = read_cohort([path])
    assert [row.patient_id for row in rows] == ["1", "1", "2", None]
    assert [row.node for row in rows] == ["007", "08", "1.0", "1.5"]
    assert "column patient_id: 1.0 is read as 1" in caplog.text
    assert "column node" not in caplog.text


def test_rows_that_repeat_count_once_and_that_is_said(tmp_path: Path, caplog) -> None:
    path = manifest(
        tmp_path, "slide_id,path,node\na,/a.svs,1\na,/a.svs,1\nb,/b.svs,2\n"
    )
    assert ids(path) == ["a", "b"]
    assert "1 row left out: repeated" in caplog.text
    path = manifest(tmp_path, "slide_id,path,node\na,/a.svs,1\na,/a.svs,2\n")
    with pytest.raises(ValueError, match="slide_id 'a' twice"):
        ids(path)


def test_paths_of_windows_are_named_or_turned(tmp_path: Path) -> None:
    (slide,) = touch(tmp_path, "slides/a.svs")
    path = manifest(tmp_path, "slide_id,path\na,slides\\a.svs\n")
    assert read_cohort([path])[0].path == str(slide)
    for text in (r"D:\data\a.tif", "C:/data/a.tif", r"\\server\share\a.tif"):
        with pytest.raises(
            ValueError, match=r"line 2, column path: .* path of Windows"
        ):
            read_cohort([manifest(tmp_path, f"slide_id,path\na,{text}\n")])


def test_parquet_with_typed_columns(tmp_path: Path) -> None:
    columns = {
        "slide_id": [7, 8],
        "path": ["a.svs", "/b.svs"],
        "mpp": [0.25, None],
        "exhaustive": [False, None],
        "patient_id": [1.0, float("nan")],  # what pandas makes of ids with gaps
        "__index_level_0__": [0, 1],
    }
    parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    assert read_cohort([tmp_path / "c.parquet"]) == [
        SlideRow(
            slide_id="7",
            path=f"{tmp_path}/a.svs",
            mpp=0.25,
            exhaustive=False,
            patient_id="1",
        ),
        SlideRow(slide_id="8", path="/b.svs"),
    ]


def test_parquet_keeps_ids_with_leading_zeros(tmp_path: Path) -> None:
    table = pa.table({"slide_id": ["007"], "path": ["/a.svs"]})
    parquet.write_table(table, tmp_path / "c.parquet")
    assert ids(tmp_path / "c.parquet") == ["007"]


def test_a_missing_slide_file_stays_a_row(tmp_path: Path) -> None:
    assert ids(manifest(tmp_path, "path\n/nowhere/a.svs\n")) == ["a"]


def test_manifest_and_files_together(tmp_path: Path) -> None:
    (slide,) = touch(tmp_path, "b.svs")
    path = manifest(tmp_path, "slide_id,path\na,x.svs\n")
    assert ids(path, slide) == ["a", "b"]


@pytest.mark.parametrize("text", ["true", "YES", "1", "y", "True"])
def test_exhaustive_true(tmp_path: Path, text: str) -> None:
    path = manifest(tmp_path, f"path,exhaustive\n/a.svs,{text}\n")
    assert read_cohort([path])[0].exhaustive is True


@pytest.mark.parametrize("text", ["false", "No", "0", "n"])
def test_exhaustive_false(tmp_path: Path, text: str) -> None:
    path = manifest(tmp_path, f"path,exhaustive\n/a.svs,{text}\n")
    assert read_cohort([path])[0].exhaustive is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{}: empty: its first line must name the columns"),
        ("path\n", "{}: no slide in this manifest: add a row per slide"),
        (
            "slide_id,mpp\na,1\n",
            "{}: no column path: add one with each slide's file. Its first line names "
            "'slide_id', 'mpp': if that is a title, remove the lines above the "
            "columns' names",
        ),
        (
            "path,zzz,anotation\n/a.svs,,\n",
            "{}: unknown column 'anotation': is it meant as 'annotation'? Rename it "
            "so, or to something else",
        ),
        (
            "path,case_id,patient\n/a.svs,1,1\n",
            "{}: 'case_id' and 'patient' both mean patient_id: remove one of them",
        ),
        (
            "path,mpp\n/a.svs,0.25\n/b.svs,abc\n",
            "{}, line 3, column mpp: 'abc': give um per level-0 px, 0.01 to 100, or "
            "leave it empty to go by the file",
        ),
        (
            "path,mpp\n/a.svs,-0.25\n",
            "{}, line 2, column mpp: '-0.25': give um per level-0 px, 0.01 to 100, or "
            "leave it empty to go by the file",
        ),
        (
            "path,mpp\n/a.svs,inf\n",
            "{}, line 2, column mpp: 'inf': give um per level-0 px, 0.01 to 100, or "
            "leave it empty to go by the file",
        ),
        (
            "path,exhaustive\n/a.svs,maybe\n",
            "{}, line 2, column exhaustive: 'maybe': give true or false",
        ),
        (
            "slide_id,path\na,\n",
            "{}, line 2, column path: empty: name the slide's file",
        ),
        (
            "path,mpp\n/a.svs,0,25\n",
            "{}, line 2: 3 cells for 2 columns: put a text that holds the separator in "
            '"quotes"',
        ),
        (
            "slide_id,path\na,/1.svs\nb,/2.svs\na,/3.svs\n",
            "slide_id 'a' twice: {0}, line 2 and {0}, line 4: give each its own "
            "slide_id in a manifest (columns slide_id,path)",
        ),
        (
            "slide_id,path\np1/a,/1.svs\n",
            "{}, line 2: slide_id 'p1/a' cannot be a file name, it holds '/': change "
            "it in column slide_id",
        ),
        (
            "slide_id,path\n..,/1.svs\n",
            "{}, line 2: slide_id '..' cannot be a file name, it starts with a dot or "
            "space: change it in column slide_id",
        ),
        (
            "slide_id,path\n" + "a" * 201 + ",/1.svs\n",
            "{}, line 2: slide_id '" + "a" * 201 + "' cannot be a file name, it is "
            "longer than 200 bytes: change it in column slide_id",
        ),
    ],
)
def test_wrong_manifests_name_the_place_and_the_fix(
    tmp_path: Path, text: str, message: str
) -> None:
    path = manifest(tmp_path, text)
    with pytest.raises(ValueError, match=r"cohort\.csv") as error:
        read_cohort([path])
    assert str(error.value) == message.format(path)


def test_columns_we_have_no_use_for_are_named_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # "sex" and "tissue" are like "set" and "tissue mask", yet no misspellings of them;
    # "labels" would be one, were there no label.
    path = manifest(
        tmp_path,
        "path,label,labels,sex,tissue,stain,\n/a.svs,macro,x,f,breast,H&E,\n",
    )
    assert read_cohort([path]) == [SlideRow(slide_id="a", path="/a.svs", label="macro")]
    said = "columns 'labels', 'sex', 'tissue', 'stain', '' are not used"
    assert caplog.messages == [f"{path}: {said}"]


def test_a_wrong_number_in_parquet_names_the_row(tmp_path: Path) -> None:
    table = pa.table({"path": ["/a.svs", "/b.svs"], "mpp": [0.25, -1.0]})
    parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet, row 2, column mpp: '-1'"):
        read_cohort([tmp_path / "c.parquet"])


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: not a Parquet file"):
        read_cohort([tmp_path / "a.parquet"])
    (tmp_path / "b.csv").write_bytes("path\n/größe.svs\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.csv: not a CSV in UTF-8"):
        read_cohort([tmp_path / "b.csv"])
    (tmp_path / "c.csv").write_text('path\n"/a.svs\n')
    with pytest.raises(ValueError, match=r"c\.csv: not a CSV in UTF-8"):
        read_cohort([tmp_path / "c.csv"])


def test_run_among_the_slides_is_no_folder_of_slides(tmp_path):
    (tmp_path / "a.svs").touch()
    (tmp_path / "run" / "masks").mkdir(parents=True)
    (tmp_path / "run" / "masks" / "a.png").touch()
    (tmp_path / "run" / "run.toml").touch()
    assert [row.slide_id for row in read_cohort([tmp_path])] == ["a"]


# What a row says


@pytest.mark.parametrize(
    ("columns", "known", "normal"),
    [
        ({"label": "negative"}, True, True),
        ({"label": "Normal "}, True, True),
        ({"label": "negative", "exhaustive": False}, True, True),
        ({"label": "macro", "annotation": "a.xml"}, True, True),
        ({"label": "macro", "annotation": "a.xml", "exhaustive": True}, True, True),
        ({"label": "macro", "annotation": "a.xml", "exhaustive": False}, True, False),
        ({"label": "macro"}, False, False),
        ({"annotation": "a.xml"}, True, True),
        ({"annotation": "a.xml", "exhaustive": False}, True, False),
        ({}, False, False),
    ],
)
def test_only_what_is_known_to_be_normal_gives_normal_patches(
    columns: dict[str, Any], known: bool, normal: bool
) -> None:
    row = SlideRow(slide_id="s", path="s.tif", **columns)
    assert (row.is_known, row.gives_normal) == (known, normal)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("test", True), (" Testing", True), ("train", False), (None, False)],
)
def test_slides_held_back_are_those_of_the_test_split(
    split: str | None, expected: bool
) -> None:
    assert SlideRow(slide_id="s", path="s.tif", split=split).is_test is expected
