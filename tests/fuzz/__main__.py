"""``python -m tests.fuzz``: read thousands of damaged files, and say how it ended."""

import argparse
import math
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import Result, run_kind
from tests.fuzz.child import READ, REFUSED
from tests.fuzz.kinds import KINDS
from tests.fuzz.table import as_table, commit_of_now, findings_of
from tests.fuzz.table_seeds import run_seeds


def main() -> int:
    """Read the mutants; 1 if any ended otherwise than read or refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", type=int, default=20_000, help="of all kinds")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, help="the mutant of this number alone")
    parser.add_argument("--report", type=Path, help="write the table there")
    asked = parser.parse_args()
    results: list[Result] = []
    begun, commit = time.monotonic(), commit_of_now()
    run_seeds()  # here, so that no child has to make them
    shares = sum(KINDS[name].share for name in asked.kind)
    for name in asked.kind:
        many = math.ceil(asked.mutants * KINDS[name].share / shares)
        numbers = range(many) if asked.only is None else [asked.only]
        since, before = time.monotonic(), len(results)
        results += run_kind(KINDS[name], numbers, seed=asked.seed)
        here = results[before:]
        took = time.monotonic() - since
        bad = sum(r.ending.outcome not in (READ, REFUSED) for r in here)
        print(f"{name}: {len(here)} in {took:.0f} s, {bad} bad", file=sys.stderr)
    took = time.monotonic() - begun
    text = as_table(
        results, seed=asked.seed, seconds=took, commit=commit
    ) + findings_of(results)
    print(text)
    if asked.report is not None:
        asked.report.write_text(text, "utf-8")
    return int(any(r.ending.outcome not in (READ, REFUSED) for r in results))


if __name__ == "__main__":
    sys.exit(main())
