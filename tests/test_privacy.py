"""What slides say of patients stays where it is: planted names are searched for.

In every file that a run, an export and Ray write, in all that is printed, and in every
answer of the viewer. ``tests/planted.py`` says what is planted and how it is searched.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import ray
import tomli_w
from PIL import Image
from starlette.testclient import TestClient

from digipath_ray.cli.app import run_app
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow, read_manifest
from digipath_ray.cohort.pseudonyms import (
    HASHED,
    hash_id,
    hash_ids,
    hide_files,
    is_hashed,
    read_pseudonyms,
    read_secret,
)
from digipath_ray.config.toml import Tree, merge
from digipath_ray.networks.card import read_card
from digipath_ray.run.directory import PRIVATE, RunDirectory
from digipath_ray.viewer.collection.entries import key_of
from tests.annotated import FIT, write_annotated_cohort
from tests.planted import (
    PLANTED,
    find_planted,
    search_folder,
    shows_label,
    truncated,
    write_dicom,
    write_generic,
    write_ndpi,
    write_picture,
    write_svs,
)
from tests.runs import RAY_WARNINGS, SMALL, make_run, small_config, stamps
from tests.viewing import DIGIPATH, client, decode

ROOT = Path(__file__).parents[1]
NAMES = ("S26-08", "SMITH", "MRN-1234", "MRN-1235")
"""In names of files and folders and in the manifest of the second cohort."""
SECRETS = {
    "DIGIPATH_ID_SECRET": "planted-secret-of-ids-0001",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000002",
    "AWS_SECRET_ACCESS_KEY": "plantedAwsSecret/0000000000003",
    "AWS_SESSION_TOKEN": "planted-session-token-0004",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "planted-google-key-0005",
    "AZURE_STORAGE_ACCOUNT_KEY": "planted-azure-key-0006",
    "HF_TOKEN": "hf_plantedtoken0007",
}
"""In the environment of what is run."""
EMPTY = (
    "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate",
    "StudyTime", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
PLACE = (
    "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID",
    "ReferencedSeriesSequence", "TotalPixelMatrixOriginSequence",
    "SharedFunctionalGroupsSequence", "ImageOrientationSlide",
)  # fmt: skip
"""Attributes of a segmentation: who, and where."""
ROUTES = (
    "", "/thumbnail.jpg", "/values?x=100&y=80", "/outlines/a.geojson",
    "/truth.geojson", "/export/geojson", "/export/csv", "/export/heatmap",
    "/tiles/8/0_0.jpg", "/tiles/0/0_0.jpg", "/maps/a/probability/0/0_0.png",
    "/maps/a/tissue/0/0_0.png",
)  # fmt: skip
"""Of a slide in the viewer."""


def write_config(path: Path) -> Path:
    """Two tiny networks; pN stages; an mpp for files that state none."""
    more: Tree = {
        "slide": {"slide_mpp": 1.0},
        "compute": {"readers": 1},
        "outcome": {"outcome": "stage"},
        "members": [{**m, "weights": "random"} for m in SMALL["members"]],
    }
    path.write_text(tomli_w.dumps(merge(SMALL, more)))
    return path


def write_planted(folder: Path) -> Path:
    """A slide of each format whose headers are planted, and two that fail."""
    folder.mkdir()
    svs = write_svs(folder / "one.svs")
    write_svs(folder / "odd.svs", mpp="PLANTED", seed=1)
    write_generic(folder / "two.tif", seed=2)
    level = write_dicom(folder / "three", seed=3)
    write_picture(folder / "four.png", seed=4)
    write_ndpi(folder / "five.ndpi", seed=5)
    truncated(folder / "cut.svs", svs)
    truncated(folder / "cut.dcm", level)
    return folder


def write_named(folder: Path) -> Path:
    """Planted slides under names of patients, in a manifest; two of them fail."""
    home = folder / "SMITH^JANE"
    home.mkdir(parents=True)
    svs = write_svs(home / "S26-0811.svs")
    write_generic(home / "S26-0812.tif", seed=2)
    (home / "S26-0812.geojson").write_text("no GeoJSON")
    write_dicom(home / "S26-0813", seed=3)
    truncated(home / "S26-0814.svs", svs)
    rows = [
        "slide_id,path,patient_id,annotation",
        "S26-0811,S26-0811.svs,MRN-1234,",
        "S26-0812,S26-0812.tif,MRN-1234,S26-0812.geojson",
        "S26-0813,S26-0813/level.dcm,MRN-1235,",
        "S26-0814,S26-0814.svs,MRN-1235,",
        "S26-0815,S26-0815_lost.svs,MRN-1235,",
    ]
    (home / "cohort.csv").write_text("\n".join(rows))
    return home / "cohort.csv"


def scrape() -> bytes:
    """What Prometheus gets of this node, once it has a run's counters."""
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(url, timeout=10) as page:
            text: bytes = page.read()
        if b"ray_digipath_slides_failed" in text and b"digipath_patches" in text:
            return text
        assert time.monotonic() < until, "no counters of a run"
        time.sleep(1)


def answers(browser: TestClient) -> Iterator[tuple[str, int, bytes]]:
    """What the viewer says to everything that can be asked of it."""
    cohort = browser.get("/api/cohort")
    yield "/api/cohort", cohort.status_code, cohort.content
    urls = ["/", "/api/export/csv", "/api/jobs", "/nothing"]
    urls += [
        f"/api/slides/{s['key']}{r}" for s in cohort.json()["slides"] for r in ROUTES
    ]
    for url in urls:
        answer = browser.get(url)
        told = f"{answer.headers}".encode()
        yield url, answer.status_code, told + b"\n" + answer.content
        yield url, answer.status_code, answer.content


# Headers, labels and macro images


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
@pytest.mark.usefixtures("ray_here")
def test_nothing_of_a_header_leaves_a_run(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    slides, out = write_planted(tmp_path / "slides"), tmp_path / "run"
    config = str(write_config(tmp_path / "config.toml"))
    caplog.set_level("DEBUG", "digipath_ray")
    given = [str(slides), "--config", config]
    assert run_app(["info", *given]) == 1
    assert run_app(["-v", "run", *given, "--out", str(out)]) == 1
    run = RunDirectory(out)
    assert set(run.finished_ids()) == {"one", "odd", "two", "three", "four", "five"}
    assert len(run.read_failures()) == 2
    assert run_app(["status", str(out)]) == 1
    for kind in ("csv", "geojson", "dicom-seg"):
        to = ["--format", kind, "--out", str(tmp_path / kind)]
        assert run_app(["export", str(out), *to]) == 0
        assert search_folder(tmp_path / kind) == []
    said = capfd.readouterr()
    assert "6 of 8 slides finished" in said.out
    text = said.out + said.err + caplog.text
    assert find_planted("terminal", text.encode()) == []
    assert find_planted("metrics", scrape()) == []
    assert search_folder(out) == []
    pictures = [*out.rglob("*.jpg"), *out.rglob("*.png")]
    assert len(pictures) > 15
    assert not [p for p in pictures if shows_label(decode(p.read_bytes()))]
    with client(run) as browser:
        told = list(answers(browser))
    assert sum(code == 200 for _, code, _ in told) > 80
    assert [p for url, _, data in told for p in find_planted(url, data)] == []
    images = [d for _, c, d in told if c == 200 and d[:3] == b"\xff\xd8\xff"]
    assert len(images) >= 15
    assert not any(shows_label(decode(data)) for data in images)


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    folder = write_planted(tmp_path / "slides")
    for name in ("one.svs", "two.tif", "four.png", "three/level.dcm", "five.ndpi"):
        path = folder / name
        assert find_planted(name, path.read_bytes()), name
    with tempfile.TemporaryFile() as file:
        picture = np.full((40, 40, 3), (0, 255, 255), np.uint8)
        Image.fromarray(picture).save(file, "JPEG")
        file.seek(0)
        assert shows_label(decode(file.read()))


@pytest.fixture(scope="module")
def dicom_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of one slide in DICOM whose header names a patient."""
    folder = tmp_path_factory.mktemp("dicom")
    write_dicom(folder / "three")
    rows = read_cohort([folder / "three"])
    return make_run(folder / "run", rows, small_config())


def export_seg(run: RunDirectory, out: Path, *more: str) -> pydicom.Dataset:
    given = ["--format", "dicom-seg", "--out", str(out), *more]
    assert run_app(["export", str(run.root), *given]) == 0
    return pydicom.dcmread(out / "three.dcm")


def test_a_segmentation_names_the_patient_only_if_asked(
    dicom_run: RunDirectory, tmp_path: Path
) -> None:
    unnamed = export_seg(dicom_run, tmp_path / "unnamed")
    named = export_seg(dicom_run, tmp_path / "named", "--with-patient")
    assert (named.PatientName, named.PatientID) == ("PLANTED^PATIENT", "MRN-4482")
    assert named.AccessionNumber == "ACC-7731"
    assert search_folder(tmp_path / "unnamed") == []
    # Attributes of type 2 (DICOM PS3.3, C.7.1.1 and C.7.2.1) must be there.
    for name in EMPTY:
        assert unnamed[name].value == "", name
    assert unnamed.PatientIdentityRemoved == "YES"
    assert unnamed.DeidentificationMethod
    assert unnamed.SpecimenDescriptionSequence[0].SpecimenIdentifier == "three"


def test_without_the_patient_it_still_lies_on_its_slide(
    dicom_run: RunDirectory, tmp_path: Path
) -> None:
    unnamed = export_seg(dicom_run, tmp_path / "unnamed")
    named = export_seg(dicom_run, tmp_path / "named", "--with-patient")
    for name in PLACE:
        assert unnamed[name].value == named[name].value, name
    assert np.array_equal(unnamed.pixel_array, named.pixel_array)


def test_a_patient_is_asked_for_where_there_can_be_one(
    dicom_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--with-patient", "--out", str(tmp_path / "csv")]
    assert run_app(["export", str(dicom_run.root), *given]) == 2
    assert "--with-patient with csv" in capsys.readouterr().err


# Names of files


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """A run with --slide-ids hash: its directory, what it said, Ray's own files."""

    run: RunDirectory
    manifest: Path
    config: Path
    said: str
    ray_files: Path

    def again(self, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The same command once more, with other options or environment."""
        return digipath(self.manifest, self.config, self.run.root, *more, **env)


def digipath(
    manifest: Path, config: Path, out: Path, *more: str, **env: str
) -> subprocess.CompletedProcess[str]:
    arguments = [str(manifest), "--config", str(config), "--out", str(out), *more]
    return subprocess.run(
        [*DIGIPATH, "-v", "run", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **SECRETS, "RAY_ADDRESS": "local", **env},
        check=False,
    )


@pytest.fixture(scope="module")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hashed]:
    """A cohort of patients' names as it is run at a command line, secrets around it."""
    folder = tmp_path_factory.mktemp("hashed")
    manifest, config = write_named(folder), write_config(folder / "config.toml")
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as ray_files:
        env = {"RAY_TMPDIR": ray_files}
        out = folder / "run"
        ran = digipath(manifest, config, out, "--slide-ids", "hash", **env)
        assert ran.returncode == 1, ran.stderr
        yield Hashed(
            run=RunDirectory(out),
            manifest=manifest,
            config=config,
            said=ran.stdout + ran.stderr,
            ray_files=Path(ray_files),
        )


def shared_part(run: RunDirectory, to: Path) -> Path:
    """A copy of a run without what docs/privacy.md says to keep."""
    shutil.copytree(run.root, to, ignore=shutil.ignore_patterns(*PRIVATE))
    return to


@pytest.mark.ray
def test_hashed_ids_hide_names_from_terminal_logs_and_ray(hashed: Hashed) -> None:
    assert "3 of 5 slides finished, 2 failed" in hashed.said
    planted = (*NAMES, *PLANTED)
    assert find_planted("terminal", hashed.said.encode(), planted) == []
    assert len(list(hashed.ray_files.rglob("*.log"))) > 5
    assert search_folder(hashed.ray_files, planted) == []


@pytest.mark.ray
def test_secrets_of_the_environment_are_written_nowhere(hashed: Hashed) -> None:
    secrets = SECRETS.values()
    assert find_planted("terminal", hashed.said.encode(), secrets) == []
    assert search_folder(hashed.run.root, secrets) == []
    assert search_folder(hashed.ray_files, secrets) == []


@pytest.mark.ray
def test_what_is_shared_of_a_hashed_run_names_nobody(
    hashed: Hashed, tmp_path: Path
) -> None:
    shared = shared_part(hashed.run, tmp_path / "shared")
    assert {p.name for p in shared.iterdir()} >= {
        "report.html", "outcomes.parquet", "patients.parquet", "heatmaps", "overlays",
        "lesions", "masks", "thumbnails", "status.json", "metrics.json", "run.toml",
    }  # fmt: skip
    assert search_folder(shared, (*NAMES, *PLANTED)) == []
    for kind in ("csv", "geojson", "dicom-seg"):
        to = ["--format", kind, "--out", str(tmp_path / kind)]
        assert run_app(["export", str(hashed.run.root), *to]) == 0
        assert search_folder(tmp_path / kind, (*NAMES, *PLANTED)) == []


@pytest.mark.ray
def test_a_hashed_run_in_the_viewer_names_nobody(
    hashed: Hashed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "digipath_ray")
    with client(hashed.run) as browser:
        told = list(answers(browser))
    assert sum(code == 200 for _, code, _ in told) > 40
    planted = (*NAMES, *PLANTED)
    assert [p for url, _, data in told for p in find_planted(url, data, planted)] == []
    assert find_planted("log", caplog.text.encode(), planted) == []
    failed = key_of(hash_id("S26-0815", secret_of(), kind="slide"))
    assert any(failed in url and b"file not found" in data for url, _, data in told)


def secret_of() -> bytes:
    return SECRETS["DIGIPATH_ID_SECRET"].encode()


@pytest.mark.ray
def test_ids_csv_says_who_is_who_to_its_owner_alone(hashed: Hashed) -> None:
    path = hashed.run.pseudonyms
    assert path.stat().st_mode & 0o777 == 0o600
    known = read_pseudonyms(path)
    slides = {p.name: p for p in known.values() if p.kind == "slide"}
    assert set(slides) == {f"S26-081{i}" for i in range(1, 6)}
    assert slides["S26-0811"].path == str(hashed.manifest.with_name("S26-0811.svs"))
    patients = {p.name for p in known.values() if p.kind == "patient"}
    assert patients == {"MRN-1234", "MRN-1235"}
    assert set(hashed.run.finished_ids()) < set(known)
    assert all(HASHED.fullmatch(i) for i in known)


@pytest.mark.ray
def test_a_hashed_run_goes_on_from_what_is_finished(hashed: Hashed) -> None:
    before = stamps(hashed.run)
    rows = [row for row, _ in read_manifest(hashed.run.manifest)]
    ran = hashed.again("--slide-ids", "hash")
    assert "(3 were already)" in ran.stdout
    # Its own manifest has its ids already.
    own = digipath(hashed.run.manifest, hashed.config, hashed.run.root)
    assert "(3 were already)" in own.stdout
    assert before == stamps(hashed.run)
    assert rows == [row for row, _ in read_manifest(hashed.run.manifest)]


@pytest.mark.ray
def test_names_do_not_come_into_a_hashed_run(hashed: Hashed) -> None:
    named = hashed.again()
    assert named.returncode == 2
    assert "was made with --slide-ids hash" in named.stderr
    other = hashed.again("--slide-ids", "hash", DIGIPATH_ID_SECRET="another-secret-00")
    assert other.returncode == 2
    assert "was made with another secret: set DIGIPATH_ID_SECRET" in other.stderr


@pytest.mark.ray
def test_a_corrected_manifest_is_hashed_as_the_run_is(
    hashed: Hashed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIGIPATH_ID_SECRET", SECRETS["DIGIPATH_ID_SECRET"])
    run = RunDirectory(shutil.copytree(hashed.run.root, tmp_path / "copy"))
    corrected = hashed.manifest.with_name("corrected.csv")
    corrected.write_text(hashed.manifest.read_text().replace("MRN-1235", "MRN-1234"))
    assert run_app(["stage", str(run.root), "--manifest", str(corrected)]) == 0
    shared = shared_part(run, tmp_path / "shared")
    assert search_folder(shared, NAMES) == []
    (patient,) = {r.slide.patient_id for r in run.read_done().values()}
    assert patient == hash_id("MRN-1234", secret_of(), kind="patient")


def test_a_run_with_names_does_not_take_hashed_ids(
    dicom_run: RunDirectory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("DIGIPATH_ID_SECRET", SECRETS["DIGIPATH_ID_SECRET"])
    slides = str(dicom_run.root.parent / "three")
    given = ["--slide-ids", "hash", "--weights", "random", "--out", str(dicom_run.root)]
    assert run_app(["run", slides, *given]) == 2
    assert "was made with --slide-ids name" in capsys.readouterr().err
    assert not dicom_run.pseudonyms.exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
@pytest.mark.usefixtures("ray_here")
def test_members_fitted_with_hashed_ids_name_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIGIPATH_ID_SECRET", SECRETS["DIGIPATH_ID_SECRET"])
    write_annotated_cohort(tmp_path / "SMITH", patients=2)
    cohort, out = tmp_path / "SMITH" / "cohort.csv", tmp_path / "fit"
    config = tmp_path / "fit.toml"
    config.write_text(tomli_w.dumps(FIT))
    given = ["--config", str(config), "--slide-ids", "hash", "--out", str(out)]
    assert run_app(["train", str(cohort), *given]) == 0
    fitted = ("SMITH", "p0_tumor", "p1_negative")
    with_paths = {"ids.csv", "cohort.json", "annotations.parquet"}
    found = {text.split(" in ")[1].split()[0] for text in search_folder(out, fitted)}
    assert found == with_paths
    card = read_card(out / "a.safetensors")
    assert all(is_hashed(i) for i in (*card.training_slides, *card.training_patients))
    assert len(card.training_patients) == 1  # the other is held out


# Ids and their secret


def test_ids_are_a_keyed_digest_of_the_name() -> None:
    # printf 'slide\0S26-0815' | openssl dgst -sha256 -hmac 'a secret of the test'
    secret = b"a secret of the test"
    slide = hash_id("S26-0815", secret, kind="slide")
    assert slide == "s-2873e379ddaebcac18b9"
    assert hash_id("S26-0815", b"another", kind="slide") != slide
    assert hash_id("S26-0815", secret, kind="patient")[2:] != slide[2:]
    assert hash_id(slide, secret, kind="slide") == slide


def test_ids_stay_when_slides_move(tmp_path: Path) -> None:
    rows = [
        SlideRow(slide_id="a", path=f"{folder}/a.svs", patient_id="p")
        for folder in ("/old", "/new")
    ]
    (old, new), found = hash_ids(rows, b"secret")
    assert (old.slide_id, old.patient_id) == (new.slide_id, new.patient_id)
    assert [(p.kind, p.name) for p in found] == [("slide", "a"), ("patient", "p")]


def test_a_secret_is_made_once_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIGIPATH_ID_SECRET", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first, again = read_secret(), read_secret()
    file = tmp_path / "digipath_ray" / "id-secret"
    assert first == again
    assert len(first) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    with pytest.raises(ValueError, match="others can read this secret: chmod 600"):
        read_secret()


@pytest.mark.parametrize("text", ["", "short", " " * 20])
def test_a_secret_that_can_be_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DIGIPATH_ID_SECRET", text)
    with pytest.raises(ValueError, match="at least 16 characters: make one with"):
        read_secret()


def test_texts_about_a_hashed_slide_do_not_say_its_files() -> None:
    row = SlideRow(
        slide_id="s-0123456789abcdef0123",
        path="/data/SMITH^J/S26-08.svs",
        mask="/masks/SMITH^J/S26-08_m.png",
    )
    text = "/data/SMITH^J/S26-08.svs: S26-08.svs; /masks/SMITH^J/S26-08_m.png: 108 px"
    assert hide_files(text, row) == (
        "s-0123456789abcdef0123: s-0123456789abcdef0123; s-0123456789abcdef0123: 108 px"
    )
    named = SlideRow(slide_id="S26-08", path=row.path)
    assert hide_files(text, named) == text


def test_the_guide_says_what_not_to_share() -> None:
    guide = (ROOT / "docs" / "privacy.md").read_text("utf-8")
    (listed,) = re.findall(r"--exclude=\{(.*?)\}", guide)
    assert set(listed.split(",")) == set(PRIVATE)
    assert all(f"`{name}" in guide for name in PRIVATE)
