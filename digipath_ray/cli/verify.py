"""``digipath verify``: whether a run is whole, and how to mend it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from digipath_ray.config.toml import read_toml
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.status import liveness, read_status
from digipath_ray.verify.discard import discard_damaged
from digipath_ray.verify.faults import Fault, Verification, commands
from digipath_ray.verify.repeat import Repeated, repeat_chunks
from digipath_ray.verify.verify import verify_run
from digipath_ray.words import count, name_some

SHOWN = 40
"""Faults that are printed."""


def verify_and_print(
    console: Console, folder: Path, *, deep: int, seed: int, discard: bool
) -> int:
    """Look at a run and print what is wrong with it; 1 if anything is.

    Raises:
        RunError: no run's directory, or a run that goes on.
    """
    run = RunDirectory(folder)
    refuse_running(run)
    with console.status("looking at the run") as shown:
        found = verify_run(
            run,
            progress=lambda done, total: shown.update(f"{done} of {total} slides"),
        )
    if deep and not found.faults:
        found = predict_again(console, run, found, deep, seed=seed)
    print_verification(console, run, found)
    if discard and found.faults:
        discarded, kept = discard_damaged(run, found.faults)
        console.print(f"discarded {escape(name_some(discarded) or 'nothing')}")
        if kept:
            console.print(
                "left alone, as the slide is not where the manifest says: "
                f"{escape(name_some(kept))}"
            )
    return 0 if found.is_right else 1


def refuse_running(run: RunDirectory) -> None:
    """Refuse a run that is being written to.

    Raises:
        RunError: it is.
    """
    try:
        status = read_status(run)
    except ValueError:  # damaged: a fault of its own
        return
    if status and liveness(status, now=datetime.now(UTC)) == "running":
        raise RunError(
            f"{run.root} is being written to by {status.host}, process {status.pid}: "
            "verify it when that has ended"
        )


def predict_again(
    console: Console, run: RunDirectory, found: Verification, chunks: int, *, seed: int
) -> Verification:
    """The same with some chunks predicted again, and faults where they differ."""
    # Forced: what contradicts the cards was accepted when the run was started.
    config = resolve(read_toml(run.settings), force=True)
    done = run.read_done()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    repeated: list[Repeated] = []
    notes, faults = list(found.notes), list(found.faults)
    for one in repeat_chunks(
        run, list(done.values()), config, chunks, seed=seed, device=device
    ):
        if isinstance(one, str):
            notes.append(f"not predicted again: {one}")
            continue
        repeated.append(one)
        precision = done[one.slide_id].precision
        if not one.is_same(precision):
            what = f"chunk {one.chunk} is {one.largest:.3g} from what is predicted now"
            name = run.heatmap(one.slide_id).relative_to(run.root).as_posix()
            faults.append(
                Fault(where=name, what=what, fix="discard", slide_id=one.slide_id)
            )
    if len(repeated) < chunks:
        notes.append(f"{len(repeated)} of {chunks} chunks were predicted again")
    return replace(found, repeated=repeated, notes=notes, faults=faults)


def print_verification(
    console: Console, run: RunDirectory, found: Verification
) -> None:
    """What is wrong and what mends it; else that nothing is."""
    for fault in found.faults[:SHOWN]:
        console.print(f"[red]fault[/]     {escape(fault.where)}: {escape(fault.what)}")
    if len(found.faults) > SHOWN:
        console.print(f"          and {len(found.faults) - SHOWN} more")
    if found.missing:
        names = escape(name_some(found.missing))
        console.print(f"[red]missing[/]   {names}: neither finished nor failed")
    for note in found.notes:
        console.print(f"[yellow]note[/]      {escape(note)}")
    if found.repeated:
        pixels = sum(one.pixels for one in found.repeated)
        largest = max(one.largest for one in found.repeated)
        mean = sum(one.mean * one.pixels for one in found.repeated) / pixels
        console.print(
            f"predicted again {count(len(found.repeated), 'chunk')}, {pixels} heatmap "
            f"px: largest difference {largest:.2g}, mean of the probability {mean:.2g}"
        )
    console.print(
        f"{count(found.slides, 'slide')}: {found.finished} finished, {found.failed} "
        f"failed, {len(found.missing)} missing; {count(found.files, 'digest')} "
        f"compared, {count(len(found.faults), 'fault')}"
    )
    for line in mending(run, found.faults, missing=bool(found.missing)):
        console.print(f"fix       {escape(line)}", soft_wrap=True)


def mending(run: RunDirectory, faults: Sequence[Fault], *, missing: bool) -> list[str]:
    """What mends a run, in order."""
    fixes = {fault.fix for fault in faults}
    lines = [
        f"bring back {fault.where} from a copy: nothing else knows what it said"
        for fault in faults
        if fault.fix == "restore"
    ]
    if "discard" in fixes:
        return [*lines, *commands(run, "discard")]
    if "again" in fixes or missing:
        return [*lines, *commands(run, "again")]
    return lines
