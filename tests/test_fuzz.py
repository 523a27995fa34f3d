"""A short campaign of mutated files, and that the harness finds what it looks for.

The long form is ``python -m tests.fuzz``. Both run in a process of their own: it forks,
which one with threads of other tests must not.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import faults
from tests.fuzz.child import OUTCOMES, READ, REFUSED, make, make_mutant, try_steps
from tests.fuzz.kinds import KINDS

SEED = 20_261_129


def python(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.slow
def test_the_harness_finds_each_fault(tmp_path: Path) -> None:
    """Faults that the product must not have; and a campaign that finds one fails."""
    report = tmp_path / "x.md"
    script = (
        "import json, sys\n"
        "from tests.fuzz import __main__ as main, faults, kinds\n"
        "print(json.dumps(faults.outcomes()))\n"
        "kinds.KINDS.clear(); kinds.KINDS['x'] = faults.kind_of('lack a key')\n"
        f"sys.argv[1:] = ['--mutants', '3', '--report', {str(report)!r}]\n"
        "sys.exit(main.main())"
    )
    said = python("-c", script)
    assert said.returncode == 1, said.stderr
    expected = {name: [end, end] for name, (_, end) in faults.FAULTS.items()}
    assert json.loads(said.stdout.splitlines()[0]) == expected
    assert {end for _, end in faults.FAULTS.values()} == set(OUTCOMES)
    text = report.read_text()
    assert "| lack a key | 3 | 0 | 0 | 3 |" in text
    assert "lack a key, wrong, 3 x only: KeyError" in text


@pytest.mark.slow
def test_a_short_campaign_ends_in_words() -> None:
    """Of each kind as many as its share; slower kinds have fewer."""
    said = python("-m", "tests.fuzz", "--mutants", "420", "--seed", str(SEED))
    assert said.returncode == 0, said.stdout
    assert all(f"| {name} | " in said.stdout for name in KINDS)


@pytest.mark.parametrize("name", ["TIFF", "GeoJSON", "CSV", "safetensors"])
def test_a_mutant_follows_from_its_seed_and_number(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    seeds = kind.seeds(tmp_path)
    first = [make_mutant(kind, seeds, n, SEED)[1] for n in range(20)]
    assert first == [make_mutant(kind, seeds, n, SEED)[1] for n in range(20)]
    assert first != [make_mutant(kind, seeds, n, SEED + 1)[1] for n in range(20)]
    assert sum(m.data not in {s.data for s in seeds} for m in first) > 15


NO_SLIDE = ("gray.jpg", "bits.png", "palette.bmp", "rgb.bmp")
"""Without color or tissue: a later step says so."""


@pytest.mark.parametrize("name", [*KINDS])
def test_whole_files_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[name]
    monkeypatch.chdir(tmp_path)
    target = kind.target(make(tmp_path / "in"))
    for number, seed in enumerate(kind.seeds(make(tmp_path / "seeds"))):
        path = target.place(seed.name, number, seed.data)
        ending, _ = try_steps(target, path, None, kind)
        target.clear(path)
        expected = REFUSED if seed.name in NO_SLIDE else READ
        assert ending.outcome == expected, f"{seed.name}: {ending}"
