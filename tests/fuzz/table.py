"""A campaign as Markdown: kinds by outcomes, and what was found."""

import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz.campaign import Result
from tests.fuzz.child import OUTCOMES, READ, REFUSED


def as_table(
    results: Sequence[Result], *, seed: int, seconds: float, commit: str
) -> str:
    """The outcomes of each kind, with date, seed and commit."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result.kind][result.ending.outcome] += 1
    total = sum(counts.values(), Counter())
    lines = [
        f"{len(results):,} mutants, seed {seed}, {datetime.now(UTC):%Y-%m-%d}, commit "
        f"{commit}, {seconds:.0f} s.",
        "",
        f"| kind | mutants | {' | '.join(OUTCOMES)} |",
        f"|---|{'---|' * (1 + len(OUTCOMES))}",
    ]
    for name, found in [*counts.items(), ("all", total)]:
        cells = " | ".join(f"{found[outcome]:,}" for outcome in OUTCOMES)
        lines.append(f"| {name} | {found.total():,} | {cells} |")
    return "\n".join(lines) + "\n"


def findings_of(results: Sequence[Result]) -> str:
    """What is neither read nor refused, alike ones together, with an example."""
    alike: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        ending = result.ending
        if ending.outcome not in (READ, REFUSED):
            alike[result.kind, ending.outcome, ending.where].append(result)
    lines = []
    for (kind, outcome, where), found in sorted(alike.items()):
        first = found[0]
        lines.append(
            f"- {kind}, {outcome}, {len(found)} x {where}: {first.ending.why[:160]!r} "
            f"(number {first.number}: {first.what[:80]})"
        )
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def commit_of_now() -> str:
    """The checkout's commit, marked if files differ from it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=7"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"
