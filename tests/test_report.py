import base64
import contextlib
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from playwright.sync_api import Browser
from rich.console import Console

from digipath_ray.cli.remeasure import config_of
from digipath_ray.cli.report import report_run
from digipath_ray.config.toml import merge
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.outcome.staging import Metastasis, PnStage, stage_patient
from digipath_ray.report import write_report
from digipath_ray.report.attention import border_reason, flag_reason, split_reason
from digipath_ray.report.evidence import RULES, format_nodes
from digipath_ray.report.facts import LesionView
from digipath_ray.report.findings import read_findings
from digipath_ray.report.page import format_exact_duration, lay_out
from digipath_ray.report.preview import (
    OUTLINE,
    STEPS,
    WHOLE,
    Window,
    compress,
    cut_thumbnail,
    draw_map,
    look_up,
    preview_bytes,
)
from digipath_ray.report.render import place_marks
from digipath_ray.report.words import format_probability, percent
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.tissue.mask import Mask, write_mask
from digipath_ray.words import TIMES, count, listed, natural
from tests.browser import Tab
from tests.finished_runs import Made, draw_heatmap, failure_of, write_run

STAGE = {"outcome": {"outcome": "stage", "nodes": 2}}
BURDEN = {"outcome": {"outcome": "burden"}}
MACRO = Made(
    slide_id="p1_node_1",
    lesions=((1500, 1500, 700, 0.95), (3000, 1000, 100, 0.6)),
    outcome={"metastasis": "macro", "largest_um": 2500.0},
    slide={"patient_id": "p1", "node": "1"},
)
NEGATIVE = Made(
    slide_id="p1_node_2",
    outcome={"metastasis": "negative"},
    slide={"patient_id": "p1", "node": "2"},
)
MICRO = Made(
    slide_id="p2_node_1",
    lesions=((2000, 1500, 100, 0.9),),
    outcome={"metastasis": "micro", "largest_um": 205.0},
    slide={"patient_id": "p2", "node": "1"},
)
HOSTILE = "<script>alert('x')</script>"


def text_of(page: str) -> str:
    """The words of a page as a reader sees them, tags and pictures gone."""
    body = page.split("</style>", 1)[1]
    words = html.unescape(re.sub(r"<[^>]*>", " ", body))
    return re.sub(r"\s+", " ", words)


def report_of(run: RunDirectory) -> str:
    return write_report(run).read_text("utf-8")


def staged(folder: Path) -> RunDirectory:
    """Two patients: one complete, pN1; the other with a failed node, its micro near."""
    types = [Metastasis.MACRO, Metastasis.NEGATIVE]
    return write_run(
        folder,
        [MACRO, NEGATIVE, MICRO],
        settings=STAGE,
        failures=[failure_of("p2_node_2", "p2")],
        patients=[
            stage_patient("p1", types, expected=2),
            stage_patient("p2", [Metastasis.MICRO, None], expected=2),
        ],
    )


def order_of(run: RunDirectory) -> list[str]:
    return [slide.slide_id for slide in lay_out(read_findings(run)).slides]


# What the page says


def test_a_summary_says_stages_types_and_what_to_look_at(tmp_path: Path) -> None:
    text = text_of(report_of(staged(tmp_path)))

    assert "3 of 4 slides of 2 patients were analyzed; 1 failed." in text
    assert "pN1 1 patient at least pN1mi 1 patient" in text
    assert "1 macrometastasis 1 micrometastasis 0 isolated tumor cells" in text
    assert "2 slides need review before the results are used" in text
    assert "For research use only." in text


def test_a_patient_has_the_rule_and_the_nodes_that_gave_the_stage(
    tmp_path: Path,
) -> None:
    first, second = lay_out(read_findings(staged(tmp_path))).patients

    assert (first.stage, first.at_least) == ("pN1", False)
    assert first.rule == (
        "pN1: 1 to 3 metastatic nodes, at least one with a macrometastasis."
    )
    assert first.evidence == (
        "1 of the 2 nodes analyzed is metastatic: 1 macrometastasis.",
    )
    assert [(s.node, s.verdict) for s in first.slides] == [
        ("node 1", "macrometastasis"),
        ("node 2", "negative"),
    ]
    assert (second.stage, second.at_least) == ("pN1mi", True)
    assert second.evidence[1] == ("1 node was not analyzed; it may raise the stage.")
    assert [s.verdict for s in second.slides] == ["micrometastasis", "not analyzed"]


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ((0,), "The one node analyzed is not metastatic."),
        ((3,), "The one node analyzed is metastatic: 1 macrometastasis."),
        ((0, 1), "None of the 2 nodes analyzed are metastatic: "
                 "1 with isolated tumor cells."),
        ((3, 2, 2), "3 of the 3 nodes analyzed are metastatic: 1 macrometastasis, "
                    "2 micrometastases."),
        ((None,), ""),
    ],
)  # fmt: skip
def test_nodes_are_counted_in_words(types: tuple[int | None, ...], said: str) -> None:
    found = [None if t is None else Metastasis(t) for t in types]

    assert format_nodes(vars(stage_patient("p", found))) == said


def test_nodes_that_nobody_gave_are_said_to_be_absent(tmp_path: Path) -> None:
    patient = stage_patient("p1", [Metastasis.MACRO], expected=5)
    run = write_run(tmp_path, [MACRO], settings=STAGE, patients=[patient])

    assert lay_out(read_findings(run)).patients[0].absent == 4
    assert "4 nodes missing" in text_of(report_of(run))


def test_a_patient_without_any_type_has_no_stage(tmp_path: Path) -> None:
    patient = stage_patient("p2", [None], expected=None)
    failures = [failure_of("p2_node_1", "p2")]
    run = write_run(tmp_path, settings=STAGE, failures=failures, patients=[patient])

    text = text_of(report_of(run))

    assert "None of 1 slide of 1 patient were analyzed; 1 failed." in text
    assert "no stage No slide has a type" in text


@pytest.mark.parametrize("stage", list(PnStage))
def test_every_stage_has_its_rule_in_words(stage: PnStage) -> None:
    assert RULES[stage]


def test_slides_come_in_the_order_in_which_they_need_a_look(tmp_path: Path) -> None:
    votes = ["micro", "itc", "micro", "micro"]
    made = [
        Made(slide_id="calm_10", outcome={"unsure": 0.01}),
        Made(slide_id="calm_2", outcome={"unsure": 0.01}),
        Made(slide_id="unsure", outcome={"unsure": 0.09}),
        Made(slide_id="split", outcome={"votes": votes, "metastasis": "micro"}),
        Made(slide_id="borderline", outcome={"largest_um": 1700.0}),
        Made(slide_id="blurred", slide={"qc": ["blur"], "blur": 0.31}),
    ]
    run = write_run(tmp_path, made, settings=STAGE, failures=[failure_of("broken")])

    assert order_of(run) == [
        "broken", "blurred", "borderline", "split", "unsure", "calm_2", "calm_10",
    ]  # fmt: skip
    text = text_of(report_of(run))
    assert "failed at read. the file is cut short. Fix: copy it again." in text
    assert "31 % of the tissue is grossly out of focus" in text
    assert "The largest lesion measures 1.70 mm, 15 % below the 2 mm" in text
    assert "Of 4 forests, 3 for micrometastasis and 1 for isolated tumor cells" in text
    assert "number 1 of 3 by disagreement of the members (0.09)" in text


def test_a_run_that_ended_early_names_the_slides_it_did_not_reach(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path, [MACRO, NEGATIVE])
    findings = read_findings(run)
    del findings.outcomes["p1_node_2"]

    page = lay_out(findings)

    assert page.lead == "1 of 2 slides of 1 patient was analyzed; 1 not yet."
    assert page.first[0].reasons[0].title == "Not analyzed yet"


@pytest.mark.parametrize(
    ("largest_um", "said"),
    [
        (159.9, None),
        (160.0, "0.16 mm, 20 % below the 0.2 mm"),
        (200.0, "0.20 mm, at the 0.2 mm"),
        (240.0, "0.24 mm, 20 % above the 0.2 mm"),
        (240.1, None),
        (1600.0, "1.60 mm, 20 % below the 2 mm"),
        (2400.0, "2.40 mm, 20 % above the 2 mm"),
        (2400.1, None),
        (0.0, None),
    ],
)
def test_sizes_within_a_fifth_of_a_border_are_borderline(
    largest_um: float, said: str | None
) -> None:
    reason = border_reason(largest_um)

    assert (reason is None) == (said is None)
    assert said is None or said in reason.text


def test_a_tie_of_votes_says_that_the_graver_counts() -> None:
    assert split_reason(["itc", "micro", "itc", "micro"], "micro").text == (
        "Of 4 forests, 2 for micrometastasis and 2 for isolated tumor cells; result: "
        "micrometastasis (a tie, so the more severe type is used)."
    )
    assert split_reason(["itc"] * 4, "itc") is None
    assert split_reason(None, "itc") is None


def test_a_flag_that_nobody_knows_keeps_its_name() -> None:
    assert flag_reason("folded", {}).title == "folded"


def test_votes_and_their_probabilities_are_shown(tmp_path: Path) -> None:
    outcome = {
        "votes": ["macro", "macro", "macro", "micro"],
        "type_probability": [0.05, 0.1, 0.25, 0.6],
        "metastasis": "macro",
    }
    run = write_run(tmp_path, [Made(slide_id="a", outcome=outcome)], settings=STAGE)

    text = text_of(report_of(run))

    assert "macrometastasis 3 0.60 micrometastasis 1 0.25" in text
    assert "lesion size alone the type would be: negative." in text


def test_lesions_are_listed_and_numbered_on_the_picture(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, [MACRO], settings=STAGE))

    assert "2 lesions" in text_of(page)
    assert "0.95 0.95 1.50, 1.50 mm yes" in text_of(page)
    assert "0.60 0.60 3.00, 1.00 mm no" in text_of(page)
    assert page.count('<g class="mark"') == 2


def test_more_lesions_than_a_record_lists_are_counted(tmp_path: Path) -> None:
    many = Made(slide_id="a", lesions=MACRO.lesions, outcome={"lesions": 213})

    assert "213 lesions, the 2 largest" in text_of(
        report_of(write_run(tmp_path, [many], settings=STAGE))
    )


def test_a_slide_seen_in_training_says_so(tmp_path: Path) -> None:
    seen = Made(slide_id="a", outcome={"seen_by": ["first"]})
    text = text_of(report_of(write_run(tmp_path, [seen])))

    assert "1 slide, or others of the same patients, were used to train members" in text
    assert "1 member (first) was trained on this slide" in text


def test_a_burden_is_in_percent_and_its_absence_has_a_reason(tmp_path: Path) -> None:
    found = {"burden": 0.4237, "viable_mm2": 3.2, "whole_mm2": 7.55}
    none = {"burden_note": "no tumor found: nothing at 0.5 or more"}
    made = [
        Made(slide_id="with", lesions=MACRO.lesions, outcome=found),
        Made(slide_id="without", outcome=none),
    ]
    run = write_run(tmp_path, made, settings=BURDEN)

    text = text_of(report_of(run))

    assert order_of(run) == ["without", "with"]
    assert "42 % tumor burden 1 without tumor found" in text
    assert "No tumor burden. No tumor found: nothing at 0.5 or more." in text
    assert "viable tumor 3.2 mm² whole tumor 7.55 mm²" in text
    assert "Tumor burden is the area of the viable by that of the whole tumor" in text


def test_a_run_that_asks_for_no_outcome_shows_areas(tmp_path: Path) -> None:
    text = text_of(report_of(write_run(tmp_path, [MACRO, NEGATIVE])))

    assert "Both slides of 1 patient were analyzed." in text
    assert "1 with tumor 1 without tumor found 1.57 mm² tumor in all" in text
    assert "Patients" not in text
    assert "No slide failed, none has a quality flag." in text


def test_a_run_without_any_slide_has_a_report(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.settings.write_text("[outcome]\noutcome = 'stage'\n")

    assert "This run has no slides yet." in text_of(report_of(run))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.toml is missing: give the folder of"):
        write_report(RunDirectory(tmp_path))


def test_a_slide_that_could_not_be_measured_anew_is_there_once(tmp_path: Path) -> None:
    old = failure_of("p1_node_1", "p1", step="measure")
    run = write_run(tmp_path, [MACRO, NEGATIVE], settings=STAGE, failures=[old])
    page = lay_out(read_findings(run))
    assert [slide.slide_id for slide in page.slides] == ["p1_node_1", "p1_node_2"]
    assert page.lead == "1 of 2 slides of 1 patient was analyzed; 1 failed."


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, [NEGATIVE])
    run.settings.write_text("x = [")
    with pytest.raises(ValueError, match=r"run\.toml: not valid TOML"):
        write_report(run)
    with pytest.raises(ValueError, match=r"run\.toml: not valid TOML"):
        config_of(run, {})


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, [NEGATIVE])
    run.metrics.write_text("{")

    with pytest.raises(ValueError, match=r"metrics\.json: not valid JSON"):
        write_report(run)


def test_metrics_are_put_into_words(tmp_path: Path) -> None:
    run = write_run(tmp_path, [NEGATIVE])
    metrics = {
        "patches": 1204,
        "patches_per_s": 13.3,
        "segment_s": 200.0,
        "read": {"workers": 2, "busy": 0.25},
        "predict": {"workers": 1, "busy": 1.0, "on": "gpu"},
        "bottleneck": "predict: more GPUs would help",
        "machine": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0"},
    }
    run.write_json(run.metrics, metrics)

    text = text_of(report_of(run))

    assert "patches 1,204, 13.3 a second segmenting 3 min 20 s" in text
    assert "2 workers, busy 25 % of the time" in text
    assert "(Python 3.11.7, Ray 2.60.0, PyTorch 2.15.0) in float32." in text


def test_methods_hold_every_parameter_and_the_digests(tmp_path: Path) -> None:
    settings = merge(
        STAGE,
        {"ensemble": {"tta": ["identity", "hflip"]}, "outcome": {"threshold": 0.4}},
    )
    text = text_of(report_of(write_run(tmp_path, [MACRO], settings=settings)))

    for said in (
        "were read at 1 µm/px",
        "gaps up to 160 µm closed and specks up to 40 µm removed",
        f"256 {TIMES} 256 px at a stride of 128 px",
        "an ensemble of 2 networks (U-Net with densenet121 and U-Net with densenet121)",
        "in 2 orientations (identity, hflip)",
        "kept at 16 µm/px",
        "a tumor probability of at least 0.4.",
        "less than 75 µm apart count as one",
        "doi:10.1038/s41598-021-90444-8",
        "a" * 64,
        "b" * 64,
    ):
        assert said in text


def test_one_network_seen_once_estimates_no_uncertainty(tmp_path: Path) -> None:
    member = {"name": "only", "architecture": "Unet", "weights": "random"}
    text = text_of(report_of(write_run(tmp_path, settings={"members": [member]})))

    assert "segmented by a network (U-Net)." in text
    assert "Aleatoric" not in text
    assert "Epistemic" not in text
    assert "Untrained members: not a prediction." in text


def test_a_stage_model_is_named_with_its_digest(tmp_path: Path) -> None:
    model = tmp_path / "model.skops"
    model.write_bytes(b"")
    settings = {"outcome": {"outcome": "stage", "stage_model": str(model)}}
    text = text_of(report_of(write_run(tmp_path / "run", [MACRO], settings=settings)))

    assert "the majority vote of four random forests" in text
    # SHA-256 of no bytes.
    assert "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" in text


# Hostile names


def test_names_of_slides_and_patients_are_text_and_nothing_else(tmp_path: Path) -> None:
    slide_id = "a&b 'onload=alert(1)' #?%"
    made = Made(
        slide_id=slide_id,
        outcome={"metastasis": "macro", "qc": [HOSTILE], "seen_by": [HOSTILE]},
        slide={"patient_id": HOSTILE, "node": HOSTILE, "qc": [HOSTILE]},
    )
    patient = stage_patient(HOSTILE, [Metastasis.MACRO])
    failures = [failure_of(HOSTILE, HOSTILE, error=HOSTILE, hint=HOSTILE)]
    run = write_run(
        tmp_path, [made], settings=STAGE, failures=failures, patients=[patient]
    )
    Image.new("RGB", (8, 8)).save(run.overlay(slide_id))
    run.write_json(run.metrics, {"bottleneck": HOSTILE, "machine": {"node": HOSTILE}})

    page = report_of(run)

    assert "<script" not in page.lower()
    assert text_of(page).count(HOSTILE) >= 9
    assert 'href="overlays/a%26b%20%27onload%3Dalert%281%29%27%20%23%3F%25.png"' in page


def test_the_page_allows_no_script_and_no_request(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, [MACRO]))

    assert "content=\"default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "style=" not in page.split("</style>")[1]


# Pictures


def test_the_window_is_the_tissue_with_a_margin() -> None:
    tissue = np.zeros((100, 200), np.bool_)
    tissue[40:60, 50:150] = True
    mask = Mask(array=tissue, mpp_x=10.0, mpp_y=20.0)

    window = Window.around(mask, width_um=2000.0, height_um=2000.0)

    # x 500 to 1500, y 800 to 1200 um; the margin is 4 % of 1000 um.
    assert window == Window(x=460.0, y=760.0, width=1080.0, height=480.0)


def test_a_slide_without_tissue_is_shown_whole() -> None:
    mask = Mask(array=np.zeros((10, 20), np.bool_), mpp_x=100.0, mpp_y=100.0)

    window = Window.around(mask, width_um=2000.0, height_um=1000.0)

    assert window == Window(x=0, y=0, width=2000.0, height=1000.0)


def test_a_thumbnail_is_cut_at_the_window() -> None:
    thumbnail = np.zeros((100, 200, 3), np.uint8)
    thumbnail[30:40, 20:60] = 255
    window = Window(x=200.0, y=300.0, width=400.0, height=100.0)

    cut = cut_thumbnail(Image.fromarray(thumbnail), window, (2000.0, 1000.0))

    assert cut.size == (40, 10)
    assert np.asarray(cut).min() == 255


def test_values_are_looked_up_by_their_place_in_um() -> None:
    values = np.arange(12).reshape(3, 4)
    window = Window(x=10.0, y=20.0, width=20.0, height=40.0)

    # Pixels of 10 x 20 um: columns 1 and 2, rows 1 and 2.
    found = look_up(values, (10.0, 20.0), window, (2, 2))

    assert found.tolist() == [[5, 6], [9, 10]]


def test_a_map_shows_the_probability_where_the_heatmap_has_it(tmp_path: Path) -> None:
    heatmap = draw_heatmap(Made(slide_id="a", lesions=((1600, 1200, 400, 0.8),)))
    write_heatmap(tmp_path / "a.ome.tiff", heatmap, name="a")
    window = Window(x=800.0, y=400.0, width=1600.0, height=1600.0)

    shades = draw_map(
        tmp_path / "a.ome.tiff", window, (100, 100), threshold=0.5, whole=None
    )

    # The disk fills half of the window each way; 0.8 of 12 shades is the 10th.
    assert set(np.unique(shades)) == {0, 10, OUTLINE}
    assert shades[50, 50] == 10
    assert np.flatnonzero(shades[50]).tolist() == list(range(25, 75))
    assert np.flatnonzero(shades[:, 50]).tolist() == list(range(25, 75))
    assert shades[50, 25] == OUTLINE
    assert shades[0].max() == 0


def test_a_coarse_level_of_a_large_heatmap_shows_the_same_place(tmp_path: Path) -> None:
    # 16 um/px: a picture of 40 px over 4 mm takes the level of 64 um/px.
    heatmap = draw_heatmap(Made(slide_id="a", lesions=((1024, 2048, 500, 1.0),)))
    large = np.kron(heatmap.data, np.ones((1, 4, 4), np.float32))
    heatmap = type(heatmap)(
        channels=heatmap.channels,
        data=large,
        weight=np.ones(large.shape[1:], np.float32),
        mpp_x=4.0,
        mpp_y=4.0,
    )
    write_heatmap(tmp_path / "a.ome.tiff", heatmap, name="a")
    window = Window(x=0.0, y=0.0, width=4000.0, height=3000.0)

    shades = draw_map(
        tmp_path / "a.ome.tiff", window, (40, 30), threshold=0.5, whole=None
    )

    rows, cols = np.nonzero(shades == STEPS)
    assert (rows.mean() + 0.5) * 100 == pytest.approx(2048, abs=60)
    assert (cols.mean() + 0.5) * 100 == pytest.approx(1024, abs=60)


def test_what_was_not_predicted_is_clear(tmp_path: Path) -> None:
    heatmap = draw_heatmap(Made(slide_id="a"))
    data = np.ones_like(heatmap.data)
    everywhere = type(heatmap)(
        channels=heatmap.channels,
        data=data,
        weight=heatmap.weight,
        mpp_x=16.0,
        mpp_y=16.0,
    )
    write_heatmap(tmp_path / "a.ome.tiff", everywhere, name="a")
    window = Window(x=0.0, y=0.0, width=4000.0, height=3000.0)

    shades = draw_map(
        tmp_path / "a.ome.tiff", window, (100, 75), threshold=0.5, whole=None
    )

    assert (shades[:, 91:] == 0).all()
    assert (shades[:, :89] == STEPS).all()


def test_the_whole_tumor_region_is_outlined(tmp_path: Path) -> None:
    found = {"burden": 0.5, "viable_mm2": 1.0, "whole_mm2": 2.0}
    made = Made(slide_id="a", lesions=((2000, 1500, 500, 0.9),), outcome=found)
    run = write_run(tmp_path, [made], settings=BURDEN)
    whole = np.zeros((375, 500), np.bool_)
    whole[100:275, 150:350] = True
    mask = Mask(array=whole, mpp_x=8.0, mpp_y=8.0)
    run.whole("a").parent.mkdir()
    write_mask(run.whole("a"), mask)
    window = Window(x=0.0, y=0.0, width=4000.0, height=3000.0)

    shades = draw_map(run.heatmap("a"), window, (500, 375), threshold=0.5, whole=mask)

    assert (shades == WHOLE).sum() == 2 * 175 + 2 * 200 - 4
    assert report_of(run).count("data:image/png") == 1


def test_a_file_that_is_no_heatmap_costs_its_picture_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path, [MACRO])
    run.heatmap("p1_node_1").write_bytes(b"none")
    page = report_of(run)
    assert "p1_node_1" in page
    assert "data:image" not in page
    assert "p1_node_1.ome.tiff: not a heatmap" in caplog.text


def test_a_heatmap_with_damaged_tiles_costs_its_picture_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path, [MACRO])
    file = run.heatmap("p1_node_1")
    with tifffile.TiffFile(file) as tiff:
        (start, *_), (size, *_) = (
            tiff.pages[0].dataoffsets,
            tiff.pages[0].databytecounts,
        )
    whole = file.read_bytes()
    file.write_bytes(whole[:start] + b"\xff" * size + whole[start + size :])
    assert "data:image" not in report_of(run)
    assert "p1_node_1.ome.tiff: not a heatmap" in caplog.text


def test_unpredicted_pixels_of_any_value_are_clear(tmp_path: Path) -> None:
    heatmap = draw_heatmap(MACRO)
    heatmap.probability[heatmap.weight == 0] = np.nan
    write_heatmap(tmp_path / "a.ome.tiff", heatmap, name="a")
    window = Window(x=0.0, y=0.0, width=4000.0, height=3000.0)
    shades = draw_map(
        tmp_path / "a.ome.tiff", window, (250, 188), threshold=0.5, whole=None
    )
    assert (shades[:, 225:] == 0).all()
    assert (shades > 0).any()


def test_five_hundred_pictures_make_a_page_of_about_15_mb() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1400, 3), np.uint8)
    budget = preview_bytes(500)

    uri, size = compress(Image.fromarray(noise), int(budget * 0.8 * 3 / 4))

    assert 500 * budget <= 15e6
    assert max(size) >= 280
    # Noise is worse than any tissue: the last step of the ladder may exceed it.
    assert len(uri) < 2 * budget
    tissue = Image.fromarray(noise // 16 + 180).resize((350, 250)).resize((1400, 1000))
    assert len(compress(tissue, int(budget * 0.8 * 3 / 4))[0]) < budget


def test_a_report_of_few_slides_has_larger_pictures(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path, [MACRO]))

    uri = re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1]
    with Image.open(io.BytesIO(base64.b64decode(uri))) as image:
        # 4000 x 3000 um with 400 um of glass around, 4 % of 3200 um left: 432 x 307.
        assert image.size == (432, 307)
    assert preview_bytes(1) > preview_bytes(500) > preview_bytes(50_000)


def test_slides_without_files_have_no_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path, [MACRO, NEGATIVE])
    run.thumbnail("p1_node_1").unlink()
    run.heatmap("p1_node_2").unlink()
    run.mask("p1_node_2").unlink()

    page = report_of(run)

    assert page.count("data:image/jpeg") == 1
    assert page.count("data:image/png") == 0


def test_numbers_stand_beside_their_lesions_and_in_the_picture() -> None:
    def lesion(number: int, x: float, y: float) -> LesionView:
        return LesionView(
            number=number, cells=(), feret_um=100.0, x_um=x, y_um=y, counted=True
        )

    window = Window(x=0.0, y=0.0, width=1000.0, height=500.0)
    middle, corner = place_marks([lesion(1, 500, 250), lesion(2, 990, 5)], window)

    assert (middle.label_x, middle.label_y) == (565.0, 185.0)
    assert (corner.label_x, corner.label_y) == (970.0, 30.0)
    assert len(place_marks([lesion(i, 1, 1) for i in range(20)], window)) == 8


def test_links_lead_to_files_that_are_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, [MACRO])
    Image.new("RGB", (8, 8)).save(run.overlay("p1_node_1"))

    page = report_of(run)

    assert 'href="overlays/p1_node_1.png"' in page
    assert "lesions/" not in page


# Words


def test_numbers_in_words() -> None:
    assert count(1, "slide") == "1 slide"
    assert count(1200, "patch") == "1,200 patches"
    assert count(2, "micrometastasis") == "2 micrometastases"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert (percent(0.0123), percent(0.5), percent(1.0)) == ("1.2 %", "50 %", "100 %")
    assert (
        format_probability(0.994),
        format_probability(0.9999),
        format_probability(1.0),
    ) == ("0.99", "0.9999", "1.0000")
    assert format_exact_duration(4.25) == "4.2 s"
    assert format_exact_duration(61) == "1 min 1 s"
    assert format_exact_duration(7260) == "2 h 1 min"


def test_names_sort_as_people_count() -> None:
    names = ["node_10", "node_2", "Node_1", "²", "10"]

    assert sorted(names, key=natural) == ["10", "Node_1", "node_2", "node_10", "²"]


# The command


def test_the_command_says_where_the_report_is(tmp_path: Path) -> None:
    run = write_run(tmp_path, [MACRO])
    console = Console(file=io.StringIO(), width=200)

    assert report_run(console, tmp_path) == 0

    said = console.file.getvalue()
    assert f"report    {run.report} (" in said
    assert run.report.is_file()


def test_the_same_run_gives_the_same_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, [MACRO, NEGATIVE])

    assert report_of(run) == report_of(run)


# In a browser


def full_run(folder: Path) -> RunDirectory:
    """Every part of the page, with names as long and as hostile as they can be."""
    votes = {
        "votes": ["macro", "macro", "macro", "micro"],
        "type_probability": [0.05, 0.1, 0.25, 0.6],
    }
    long = "a" * 120
    made = [
        MACRO,
        NEGATIVE,
        MICRO,
        Made(
            slide_id=long,
            lesions=tuple((500.0 + 200 * i, 1500, 60, 0.9) for i in range(12)),
            outcome={"metastasis": "macro", **votes},
            slide={
                "patient_id": HOSTILE,
                "node": "left axilla",
                "qc": ["blur", "ink over tissue", "mpp deviation"],
                "blur": 0.31,
                "ink_over_tissue": 0.012,
                "mpp_deviation": 0.04,
            },
        ),
    ]
    types = [Metastasis.MACRO, Metastasis.NEGATIVE]
    run = write_run(
        folder,
        made,
        settings=STAGE,
        failures=[
            failure_of("p2_node_2", "p2"),
            failure_of("b" * 120, HOSTILE, error=f"{'/deep' * 40}: {HOSTILE}"),
        ],
        patients=[
            stage_patient("p1", types, expected=2),
            stage_patient("p2", [Metastasis.MICRO, None], expected=2),
            stage_patient(HOSTILE, [Metastasis.MACRO, None], expected=2),
        ],
    )
    Image.new("RGB", (8, 8)).save(run.overlay(long))
    run.write_json(run.metrics, {"bottleneck": HOSTILE, "patches": 12})
    return run


@contextlib.contextmanager
def opened(
    chromium: Browser, report: Path, *, width: int, dark: bool = False
) -> Iterator[Tab]:
    """The page in a window so wide, once it has loaded; a narrow one is a phone's."""
    context = chromium.new_context(
        viewport={"width": width, "height": 844 if width < 600 else 900},
        is_mobile=width < 600,
        color_scheme="dark" if dark else "light",
    )
    tab = Tab(context.new_page())
    tab.page.goto(report.as_uri())
    yield tab
    context.close()


def photograph(tab: Tab, path: Path, *, most_px: int = 16_000) -> None:
    """A PNG of the whole page, however long."""
    width, height = tab.page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    )
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, most_px)}
    tab.page.screenshot(path=path, full_page=True, clip=clip)


VISIBLE = """
[...document.querySelectorAll("body *")]
  .filter(e => !e.closest(".scroll, pre, svg, details:not([open])"))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.tagName + "." + e.className)
"""
"""Elements that reach beyond the window's right edge, but for what scrolls inside."""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_a_browser_shows_the_whole_page_and_asks_for_nothing(
    chromium: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    report = write_report(full_run(tmp_path / "run"))

    with opened(chromium, report, width=width, dark=dark) as tab:
        tab.page.evaluate(
            "document.querySelectorAll('details').forEach(d => d.open = true)"
        )
        photograph(tab, tmp_path / "report.png")

        assert tab.messages == tab.complaints == []
        asked = {url for url in tab.requests if not url.startswith("data:")}
        assert asked == {report.as_uri()}
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        assert tab.page.evaluate(VISIBLE) == []
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width == width
        background = picture.convert("L").getpixel((1, 1))
    assert (background < 60) == dark


@pytest.mark.browser
@pytest.mark.slow
def test_pictures_are_drawn_where_the_tissue_is(
    chromium: Browser, tmp_path: Path
) -> None:
    report = write_report(write_run(tmp_path, [MACRO], settings=STAGE))

    with opened(chromium, report, width=1280) as tab:
        places = tab.page.evaluate(
            "[...document.querySelectorAll('.pictures svg')].map(s => {"
            "const b = s.getBoundingClientRect();"
            "return [b.left, b.top + scrollY, b.width, b.height]})"
        )
        photograph(tab, tmp_path / "report.png")

    with Image.open(tmp_path / "report.png") as picture:
        shot = np.asarray(picture.convert("RGB")).astype(int)
    stained, tumor = (
        # The lesion's center, 1500 um down and right, in the window from 272 um on.
        shot[round(top + height * 1228 / 2456), round(left + width * 1228 / 3456) - 8]
        for left, top, width, height in places
    )
    assert stained == pytest.approx([205, 150, 190], abs=6)
    red, green, blue = tumor
    assert red > 180 > 120 > max(green, blue)


@pytest.mark.browser
@pytest.mark.slow
def test_every_jump_lands(chromium: Browser, tmp_path: Path) -> None:
    report = write_report(full_run(tmp_path))

    with opened(chromium, report, width=390) as tab:
        lost = tab.page.evaluate(
            "[...document.querySelectorAll('a[href^=\"#\"]')]"
            ".map(a => a.hash.slice(1))"
            ".filter(id => document.getElementById(id) === null)"
        )
        ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")

    assert lost == []
    assert len(ids) == len(set(ids))


@pytest.mark.browser
@pytest.mark.slow
def test_text_stands_out_from_its_background(chromium: Browser, tmp_path: Path) -> None:
    """WCAG AA: a contrast of 4.5 for text, light and dark."""
    report = write_report(full_run(tmp_path))
    for dark in (False, True):
        with opened(chromium, report, width=1280, dark=dark) as tab:
            assert tab.page.evaluate(CONTRAST) == []


CONTRAST = """
(() => {
  const rgb = c => c.match(/[0-9.]+/g).map(Number);
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.04045
      ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => !e.closest("svg") && [...e.childNodes].some(
      n => n.nodeType === 3 && n.textContent.trim()))
    .map(e => {
      const a = light(rgb(getComputedStyle(e).color).slice(0, 3));
      const b = light(behind(e));
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return [e.tagName + "." + e.className, ratio];
    })
    .filter(([, ratio]) => ratio < 4.5);
})()
"""
