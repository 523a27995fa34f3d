"""The campaign's command line and table; see :mod:`tests.chaos`."""

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.buckets import serving
from tests.chaos.campaign import Outcome, Struck, run_seed, undisturbed_seconds
from tests.chaos.faults import FAULTS, FIT_FAULTS, draw_schedule
from tests.chaos.work import Fits, Runs


def main() -> int:
    """Run the campaign; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--faults", type=int, default=12, help="of each seed")
    parser.add_argument("--slides", type=int, default=16, help="healthy ones")
    parser.add_argument("--fits", action="store_true", help="strike digipath train")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS | FIT_FAULTS))
    parser.add_argument("--report", type=Path, help="append the table to this file")
    arguments = parser.parse_args()
    # Behind a shell's "&" it is ignored, and processes started here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-cohort-") as name,
        serving() as bucket,
    ):
        os.environ |= bucket.environment
        folder = Path(name)
        faults = FIT_FAULTS if arguments.fits else FAULTS
        maker = (
            Fits(folder) if arguments.fits else Runs(folder, arguments.slides, bucket)
        )
        base = undisturbed_seconds(maker)
        print(f"undisturbed: {base:.0f} s", flush=True)
        outcomes: list[Outcome] = []
        with contextlib.suppress(KeyboardInterrupt):  # then the table of those so far
            for seed in range(arguments.seed, arguments.seed + arguments.seeds):
                schedule = draw_schedule(seed, arguments.faults, arguments.only, faults)
                print(f"seed {seed}: {', '.join(map(str, schedule))}", flush=True)
                outcomes.append(run_seed(seed, maker, schedule))
                print_outcome(outcomes[-1])
    table = table_of(outcomes, base)
    print(table)
    if arguments.report:
        with arguments.report.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d')}\n\n{table}\n")
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


def print_outcome(outcome: Outcome) -> None:
    """A seed in a few lines."""
    for one in outcome.struck:
        met = one.met or "nothing there"
        after = "-" if one.next_slide_s is None else f"{one.next_slide_s:.1f} s"
        print(f"  {one.at:6.1f} s  {one.name}: {met}; next after {after}")
    print(
        f"  {outcome.injections} struck, {outcome.starts} starts, exit codes "
        f"{outcome.codes}, {outcome.seconds:.0f} s"
    )
    for line in outcome.wrong:
        print(f"  WRONG {line}")
    sys.stdout.flush()


def table_of(outcomes: list[Outcome], base: float) -> str:
    """One row for each fault, and what all seeds took."""
    by_name: dict[str, list[Struck]] = defaultdict(list)
    for outcome in outcomes:
        for one in outcome.struck:
            if one.met is not None:
                by_name[one.name].append(one)
    lines = [
        "| fault | injections | next slide or epoch after, median s |",
        "|---|---|---|",
    ]
    for name in FAULTS | FIT_FAULTS:
        found = by_name.get(name, [])
        if not found:
            continue
        after = [o.next_slide_s for o in found if o.next_slide_s is not None]
        median = f"{statistics.median(after):.1f}" if after else "-"
        lines.append(f"| {name} | {len(found)} | {median} |")
    struck = sum(outcome.injections for outcome in outcomes)
    lost = sum(outcome.seconds - base for outcome in outcomes)
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    lines.append(
        f"\n{len(outcomes)} seeds, {struck} injections, {wrong} seeds with anything "
        f"wrong; undisturbed {base:.0f} s, lost {lost / max(struck, 1):.1f} s an "
        "injection"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
