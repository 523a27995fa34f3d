"""Metastasis types, pN stages by Table 3, and CAMELYON17's files."""

from itertools import combinations_with_replacement, product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digipath_ray.outcome.stagelabels import (
    read_stage_labels,
    stage_label_file,
    write_submission,
)
from digipath_ray.outcome.staging import Metastasis, PnStage, stage_nodes, stage_patient
from digipath_ray.schema import PATIENTS

NEGATIVE, ITC, MICRO, MACRO = Metastasis
LETTERS = {"n": NEGATIVE, "i": ITC, "u": MICRO, "m": MACRO}
FIVE_NODES = {
    "pN0": "nnnnn",
    "pN0(i+)": "nnnni nnnii nniii niiii iiiii",
    "pN1mi": (
        "nnnnu nnniu nnnuu nniiu nniuu nnuuu niiiu niiuu niuuu nuuuu iiiiu iiiuu "
        "iiuuu iuuuu uuuuu"
    ),
    "pN1": (
        "nnnnm nnnim nnnum nnnmm nniim nnium nnimm nnuum nnumm nnmmm niiim niium "
        "niimm niuum niumm nimmm iiiim iiium iiimm iiuum iiumm iimmm"
    ),
    "pN2": (
        "nuuum nuumm nummm nmmmm iuuum iuumm iummm immmm uuuum uuumm uummm ummmm mmmmm"
    ),
}
"""Each patient of 5 nodes: negative, itc, micro (u) or macro."""


def nodes(letters: str) -> list[Metastasis]:
    return [LETTERS[letter] for letter in letters]


@pytest.mark.parametrize(
    ("letters", "stage"),
    [(each, stage) for stage, all_ in FIVE_NODES.items() for each in all_.split()],
)
def test_stage_of_five_nodes(letters: str, stage: str) -> None:
    assert stage_nodes(nodes(letters)) == stage
    assert stage_nodes(nodes(letters[::-1])) == stage


def test_no_combination_of_five_nodes_is_left_out() -> None:
    said = {each for all_ in FIVE_NODES.values() for each in all_.split()}
    assert said == {"".join(c) for c in combinations_with_replacement("nium", 5)}
    assert len(said) == 56


def test_stages_of_the_hundred_real_patients(shared_data: Path) -> None:
    file = shared_data / "camelyon17" / "stage_labels.csv"
    labels = read_stage_labels(file)
    patients = stage_label_file(file, expected=5)
    assert len(labels.types) == 500
    assert len(patients) == 100
    assert {p.patient_id: p.pn_stage for p in patients} == labels.stages
    assert all(p.complete and p.nodes == 5 and p.note is None for p in patients)


@pytest.mark.parametrize(
    ("metastatic", "stage"), [(3, "pN1"), (4, "pN2"), (9, "pN2"), (10, "pN3a")]
)
def test_metastatic_nodes_are_counted(metastatic: int, stage: str) -> None:
    types = [MACRO] + [MICRO] * (metastatic - 1) + [ITC, NEGATIVE] * 7
    assert stage_nodes(types) == stage


def test_a_stage_beyond_the_challenges_table_is_flagged() -> None:
    patient = stage_patient("p", [MACRO] * 10)
    assert patient.pn_stage is PnStage.N3A
    assert patient.note is not None
    assert "AJCC 8" in patient.note


def test_many_micro_metastases_alone_are_pn1mi() -> None:
    assert stage_nodes([MICRO] * 12) is PnStage.N1_MICRO


def test_a_further_node_never_lowers_the_stage() -> None:
    """So what is known of an incomplete patient is at least its stage."""
    order = list(PnStage)
    for size in range(1, 5):
        for types in product(Metastasis, repeat=size):
            before = order.index(stage_nodes(types))
            for more in Metastasis:
                assert order.index(stage_nodes([*types, more])) >= before


def test_no_node_has_no_stage() -> None:
    with pytest.raises(ValueError, match="no lymph node has a type"):
        stage_nodes([])


def test_a_patient_of_the_table() -> None:
    patient = stage_patient("p", nodes("niumm"), expected=5)
    table = pa.Table.from_pylist([vars(patient)], schema=PATIENTS)
    assert table.to_pylist() == [
        {
            "patient_id": "p",
            "nodes": 5,
            "missing": 0,
            "n_itc": 1,
            "n_micro": 1,
            "n_macro": 2,
            "pn_stage": "pN1",
            "complete": True,
            "note": None,
        }
    ]


def test_failed_and_absent_nodes_make_a_stage_incomplete() -> None:
    patient = stage_patient("p", [MICRO, None, NEGATIVE], expected=5)
    assert (patient.nodes, patient.missing, patient.complete) == (2, 3, False)
    assert patient.pn_stage is PnStage.N1_MICRO
    assert patient.note == "at least pN1mi: 3 of 5 nodes have no type"


def test_a_failed_node_counts_without_an_expected_number() -> None:
    patient = stage_patient("p", [NEGATIVE, None])
    assert (patient.missing, patient.complete) == (1, False)


def test_a_patient_without_any_type_has_no_stage() -> None:
    failed = stage_patient("p", [None, None], expected=5)
    assert (failed.pn_stage, failed.complete, failed.missing) == (None, False, 5)
    assert failed.note == "no stage: no node has a type"
    absent = stage_patient("p", [])
    assert (absent.pn_stage, absent.complete, absent.nodes) == (None, False, 0)


def test_more_nodes_than_expected_are_staged_and_said() -> None:
    patient = stage_patient("p", nodes("nnnnnm"), expected=5)
    assert (patient.pn_stage, patient.complete) == (PnStage.N1, True)
    assert patient.note == "6 nodes, where 5 were expected"


# Labels and files.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("negative", NEGATIVE),
        (" Normal", NEGATIVE),
        ("itc", ITC),
        ("ITC", ITC),
        ("Micro", MICRO),
        ("macro ", MACRO),
    ],
)
def test_types_are_read_in_any_case(text: str, expected: Metastasis) -> None:
    assert Metastasis.from_text(text) is expected


@pytest.mark.parametrize("text", ["tumor", "", "3"])
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one of negative, itc, micro, macro"):
        Metastasis.from_text(text)


def test_stages_are_read_in_any_case() -> None:
    assert [PnStage.from_text(s.upper()) for s in PnStage] == list(PnStage)
    with pytest.raises(ValueError, match="pN9"):
        PnStage.from_text("pN9")


def test_gravity_is_the_order() -> None:
    assert sorted([MACRO, NEGATIVE, MICRO, ITC]) == [NEGATIVE, ITC, MICRO, MACRO]


def test_a_challenge_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "Patient,Stage\n"
        "A.ZIP,pn1MI\nA_node_0.tif,micro\nA_node_1.TIF,Negative\n"
        "B.zip,pN0\nB_left.svs,negative\n"
    )
    labels = read_stage_labels(file)
    assert labels.stages == {"A": "pN1mi", "B": "pN0"}
    assert labels.nodes() == {
        "A": {"A_node_0": MICRO, "A_node_1": NEGATIVE},
        "B": {"B_left": NEGATIVE},
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_is_read(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"path": "a.tif", "label": "macro", "patient": "p"},
        {"path": "b.tif", "label": "", "patient": "p"},
        {"path": "q_node_1.tif", "label": "itc", "patient": ""},
    ]
    file = tmp_path / f"cohort{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        file.write_text("\n".join(lines))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    labels = read_stage_labels(file)
    assert labels.types == {"a": MACRO, "q_node_1": ITC}
    assert labels.patient_of == {"a": "p", "q_node_1": "q"}
    assert labels.stages == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,stage\nx_node_0.tif,huge\n", "line 2: metastasis type 'huge'"),
        ("patient,stage\nx.zip,pN7\n", "line 2: pN stage 'pN7'"),
        ("patient,stage\na.tif,itc\na.tif,macro\n", "line 3: a is there twice"),
        ("patient,stage\n", "no labels"),
        ("slide_id,grade\na,macro\n", "no labels"),
        ("patient,stage\n,NA\n", "no label in this file"),
        ("slide_id,label\na,tumor\n", "line 2: metastasis type 'tumor'"),
        ("slide_id,label,patient\na,itc,p\na,itc,q\n", "line 3: a is there twice, of"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"labels\.csv") as refused:
        read_stage_labels(file)
    assert said in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not a CSV"):
        read_stage_labels(file)


def test_columns_are_named_and_cells_empty_as_in_a_manifest(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("Slide-ID,Label,Patient ID\na,Macro,4\nb,NA,4\n")
    assert read_stage_labels(file).types == {"a": MACRO}
    rows = [{"slide_id": "a", "label": "itc", "patient_id": 4.0}]
    rows.append({"slide_id": "b", "label": None, "patient_id": float("nan")})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    labels = read_stage_labels(tmp_path / "labels.parquet")
    assert (labels.types, labels.patient_of) == ({"a": ITC}, {"a": "4"})


def test_labels_without_slides_or_of_no_nodes_give_no_stage(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("patient,stage\np.zip,pN1\n")
    with pytest.raises(ValueError, match="no slide's type"):
        stage_label_file(file)
    file.write_text("patient,stage\np_node_0.tif,itc\n")
    with pytest.raises(ValueError, match="nodes = 0: must be at least 1"):
        stage_label_file(file, expected=0)


def test_a_slide_whose_patient_is_unknown_cannot_be_staged(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("slide_id,label\nwhose,macro\n")
    with pytest.raises(ValueError, match="patient of whose is not known"):
        stage_label_file(file)


def test_the_official_file_comes_out_as_it_went_in(
    tmp_path: Path, shared_data: Path
) -> None:
    file = shared_data / "camelyon17" / "stage_labels.csv"
    out = tmp_path / "submission.csv"
    stages = {p.patient_id: p.pn_stage for p in stage_label_file(file) if p.pn_stage}
    write_submission(out, stages, read_stage_labels(file).nodes())
    assert out.read_text().split() == file.read_text().split()
