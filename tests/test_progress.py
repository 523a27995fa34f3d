"""A run's progress: lines where no terminal is, live bars where one is."""

import io
import re
import time
from dataclasses import dataclass

import pytest
from rich.console import Console

from digipath_ray.cli import progress
from digipath_ray.cli.progress import RunProgress, patches_per_second
from digipath_ray.words import format_duration


@dataclass
class Done:
    slides: int = 0
    failed: int = 0
    patches: int = 0
    first_patch: float | None = None


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def pipe() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_pipe_gets_lines_and_no_control_characters(pipe: Console) -> None:
    ago = time.monotonic() - 10
    with RunProgress(pipe) as shown:
        shown.prepared(1, 2)
        shown.prepared(2, 2)
        shown.planned(2, 100)
        shown.tallied(Done(slides=1, failed=1, patches=100, first_patch=ago))
    assert lines_of(pipe) == [
        "prepare: 1/2 slides",
        "prepare: 2/2 slides",
        "segment: 0/100 patches, 0/2 slides",
        "segment: 100/100 patches, 2/2 slides, 1 failed, 10.0/s",
    ]


def test_lines_in_between_come_every_ten_seconds(
    pipe: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert progress.LINE_EVERY_S == 10
    with RunProgress(pipe) as shown:
        for done in range(1, 50):
            shown.prepared(done, 50)
        assert lines_of(pipe) == ["prepare: 1/50 slides"]
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    with RunProgress(pipe) as shown:
        shown.prepared(1, 50)
        shown.prepared(2, 50)
        time.sleep(0.06)
        shown.prepared(3, 50)
    assert lines_of(pipe)[1:] == ["prepare: 1/50 slides", "prepare: 3/50 slides"]


def test_line_says_rate_and_time_left(pipe: Console) -> None:
    with RunProgress(pipe) as shown:
        shown.planned(1, 1000)
        shown.tallied(Done(slides=1, patches=100, first_patch=time.monotonic() - 20))
    assert lines_of(pipe)[-1] == (
        "segment: 100/1000 patches, 1/1 slides, 5.0/s, 3 min left"
    )


def test_a_slow_line_says_seconds_per_patch(pipe: Console) -> None:
    with RunProgress(pipe) as shown:
        shown.planned(1, 20)
        shown.started("3 networks on [2 CPU cores]")
        shown.tallied(Done(slides=1, patches=8, first_patch=time.monotonic() - 112))
    assert lines_of(pipe)[1:] == [
        "3 networks on [2 CPU cores]",
        "segment: 8/20 patches, 1/1 slides, 14 s/patch, 3 min left",
    ]


def test_a_terminal_gets_live_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Console(file=io.StringIO(), width=120, force_terminal=True)
    with RunProgress(terminal) as shown:
        shown.prepared(2, 2)
        shown.planned(2, 100)
        shown.tallied(Done(slides=1, patches=50, first_patch=time.monotonic() - 10))
    assert isinstance(terminal.file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.file.getvalue())
    last = [line.strip() for line in text.splitlines()[-3:]]
    assert re.match(r"prepare ━+ 2/2 +slides +0:00:0\d", last[0])
    assert re.match(r"segment \S+ +50/100 patches, 5.0/s, 10 s left +0:00:0\d", last[1])
    assert re.match(r"finish \S+ +1/2 +slides +0:00:0\d", last[2])
    assert "segment: " not in text


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Console(file=io.StringIO(), width=120, force_terminal=True)
    with RunProgress(terminal) as shown:
        shown.prepared(2, 2)
    assert lines_of(terminal) == ["prepare: 2/2 slides"]


def test_a_rate_is_not_guessed_from_the_first_moment() -> None:
    assert patches_per_second(Done(patches=8), now=100.0) is None
    assert patches_per_second(Done(patches=8, first_patch=99.5), now=100.0) is None
    assert patches_per_second(Done(patches=8, first_patch=96.0), now=100.0) == 2.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h")],
)
def test_duration(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
