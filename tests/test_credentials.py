"""Credentials in URLs and in the environment are never printed, logged or recorded."""

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest

from digipath_ray.cli.app import run_app
from digipath_ray.cli.logs import JsonLines, TextLines
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.distributed.attempts import explain
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.bucket import StorageError, explained
from digipath_ray.words import redacted
from tests.planted import find_planted
from tests.viewing import DIGIPATH

PLANTED = (
    "planted-pw",
    "planted-sig",
    "AKIAPLANTED",
    "planted-token",
    "planted-secret",
)
ENVIRONMENT = {
    # Nobody listens at port 9; its URL is printed by obstore's errors.
    "AWS_ENDPOINT_URL": "http://user:planted-pw@127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED000000001",
    "AWS_SECRET_ACCESS_KEY": "planted-secret/0000000002",
    "AWS_SESSION_TOKEN": "planted-token-0003",
    "AWS_DEFAULT_REGION": "us-east-1",
    "DIGIPATH_ID_SECRET": "planted-secret-of-ids-04",
    "HF_TOKEN": "hf_planted-token05",
    "RAY_AUTH_TOKEN": "planted-token-of-ray-0000000000006",
    "HTTPS_PROXY": "http://user:planted-pw@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}
SIGNED = "https://user:planted-pw@example.org/a.svs?X-Amz-Signature=planted-sig&x=1"
IN_URL = "s3://AKIAPLANTED:planted-pw@bucket/run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "s3://bucket/a.svs"], "Error performing HEAD http://***@127.0.0.1:9"),
        (["info", f"{IN_URL}/a.svs"], "s3://***@bucket: credentials in a URL"),
        (["info", SIGNED], "example.org/a.svs?X-Amz-Signature=***&x=1: unsupported"),
        (["status", IN_URL], "credentials in a URL"),
        (["report", IN_URL], "credentials in a URL"),
        (["view", IN_URL, "--no-browser", "--port", "0"], "credentials in a URL"),
        (["run", "none.svs", "--weights", "random", "--out", IN_URL], "credentials in"),
        (["run", "none.svs", "--weights", SIGNED, "--out", "run"], "not found"),
        (["export", IN_URL, "--out", "out"], "credentials in a URL"),
    ],
)
def test_commands_that_fail_print_no_credentials(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    ran = subprocess.run(
        [*DIGIPATH, "--verbose", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        cwd=tmp_path,
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode in (1, 2), said
    assert says in said
    assert find_planted("terminal", said.encode(), PLANTED) == []


@pytest.mark.ray
@pytest.mark.slow
def test_doctor_prints_no_credentials(tmp_path: Path) -> None:
    address = {"RAY_ADDRESS": "https://user:planted-pw@127.0.0.1:9"}
    ran = subprocess.run(
        [*DIGIPATH, "--verbose", "doctor", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, **address},
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert "***@127.0.0.1:9" in said
    assert find_planted("terminal", said.encode(), PLANTED) == []


def test_a_manifest_with_credentials_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,path\na,{IN_URL}/a.svs\n")
    assert run_app(["info", str(manifest)]) == 2
    said = capsys.readouterr().err
    assert "credentials in a URL: leave them out" in said
    assert find_planted("terminal", said.encode(), PLANTED) == []
    with pytest.raises(ValueError, match="credentials in a URL"):
        RunDirectory(IN_URL)


def test_a_row_of_failures_holds_no_credentials() -> None:
    error = StorageError(f"GET {SIGNED} failed", "try again")
    failure = explain(error, SlideRow(slide_id="a", path="s3://b/a.svs"), "read")
    assert (
        failure.error
        == "GET https://***@example.org/a.svs?X-Amz-Signature=***&x=1 failed"
    )
    assert find_planted("failure", json.dumps(vars(failure)).encode(), PLANTED) == []


def test_an_error_of_the_store_is_retold_without_them() -> None:
    from obstore.exceptions import GenericError

    with pytest.raises(StorageError) as caught, explained("s3://b/k"):
        raise GenericError(f"Error performing GET {SIGNED}")
    assert find_planted("error", str(caught.value).encode(), PLANTED) == []


def test_logs_hold_no_credentials() -> None:
    try:
        raise ValueError(SIGNED)
    except ValueError as e:
        info = (type(e), e, e.__traceback__)
    record = logging.LogRecord("x", logging.INFO, "", 1, "of %s", (SIGNED,), info)
    for formatter in (TextLines("%(message)s"), JsonLines()):
        line = formatter.format(record)
        assert "example.org" in line
        assert find_planted("log", line.encode(), PLANTED) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://u:p@h:9/b in 5 s", "at http://***@h:9/b in 5 s"),
        ("az://c/k?sv=1&sig=A%3D&se=2", "az://c/k?sv=1&sig=***&se=2"),
        ("g?X-Goog-Signature=ab", "g?X-Goog-Signature=***"),
        ("g?X-Amz-Security-Token=ab'", "g?X-Amz-Security-Token=***'"),
        ("g?AWSAccessKeyId=AK&Signature=x", "g?AWSAccessKeyId=***&Signature=***"),
        ("s3://bucket/a@b.svs and a@b.org", "s3://bucket/a@b.svs and a@b.org"),
        ("s3://b/k?a=1&b=2", "s3://b/k?a=1&b=2"),
    ],
)
def test_credentials_in_urls_are_starred_out(text: str, shown: str) -> None:
    assert redacted(text) == shown
