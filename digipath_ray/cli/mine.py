"""``digipath mine``: what a run got wrong, and where it is least sure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.run import RunConfig
from digipath_ray.mining.examples import write_hard
from digipath_ray.mining.hard import HardPatches, find_hard, merge_hard, window_px
from digipath_ray.mining.regions import (
    find_regions,
    needed_channels,
    region_features,
    write_regions,
)
from digipath_ray.mining.spec import MiningSpec, RegionSpec
from digipath_ray.networks.seen_slides import read_exposure
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedRun, read_finished, read_run
from digipath_ray.run.record import DoneRecord
from digipath_ray.run.truth import read_truth
from digipath_ray.words import count

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class MinedRun:
    """A run as it is gone through.

    Attributes:
        directory: of the run.
        config: of the run.
        records: slide_id -> ``done`` record, of slides that are not held back.
        test: slides held back for the test.
        unknown: slides of which neither annotation nor label says anything.
        failed: slide_id -> why it could not be read.
    """

    directory: RunDirectory
    config: RunConfig
    records: dict[str, DoneRecord]
    test: list[str]
    unknown: list[str]
    failed: dict[str, str] = field(default_factory=dict)

    def each(
        self, slide_ids: Iterable[str], look: Callable[[DoneRecord], Found]
    ) -> list[Found]:
        """What is found on each of some slides that can be read."""
        found = []
        for slide_id in slide_ids:
            try:
                found.append(look(self.records[slide_id]))
            except (ValueError, OSError) as e:
                self.failed[slide_id] = str(e)
        return found


def mine_run(
    console: Console,
    folder: Path,
    *,
    out: Path | None,
    uncertain: Path | None,
    mining: MiningSpec,
    regions: RegionSpec,
    annotations: AnnotationSpec,
) -> int:
    """Write hard patches, uncertain regions or both; 1 if a slide could not be read.

    Raises:
        ValueError: nothing is asked for, the directory holds no finished run, or its
            heatmaps do not have what is asked for.
    """
    if out is None and uncertain is None:
        raise ValueError(
            "nothing to do: give --out hard.parquet, --uncertain FOLDER, or both"
        )
    mined = select_slides(read_run(RunDirectory(folder)))
    if out is not None:
        mine_hard(console, mined, out, spec=mining, annotations=annotations)
    if uncertain is not None:
        export_regions(console, mined, uncertain, spec=regions)
    return print_passed(console, mined, hard=out is not None)


def select_slides(run: FinishedRun) -> MinedRun:
    """The slides of a run that are not held back for the test."""
    slides = {i: record.slide for i, record in run.records.items()}
    test = [i for i, slide in slides.items() if slide.is_test]
    return MinedRun(
        directory=run.directory,
        config=run.config,
        records={i: r for i, r in run.records.items() if i not in test},
        test=test,
        unknown=[i for i, s in slides.items() if i not in test and not s.is_known],
    )


def mine_hard(
    console: Console,
    mined: MinedRun,
    out: Path,
    *,
    spec: MiningSpec,
    annotations: AnnotationSpec,
) -> None:
    """Write the hard patches of all slides that something is known of."""
    grid = mined.config.grid
    window_px(spec.fit_patch_px, grid.downsample)

    def look(record: DoneRecord) -> HardPatches:
        slide = read_finished(mined.directory, record)
        truth = read_truth(slide, annotations)
        return find_hard(slide, truth, downsample=grid.downsample, spec=spec)

    known = [i for i in mined.records if i not in mined.unknown]
    warn_of_seen(console, mined, known)
    found = mined.each(known, look)
    table = merge_hard(found)
    write_hard(out, table, fit_patch_px=spec.fit_patch_px, mpp=grid.mpp)
    print_hard(console, found, spec)
    console.print(f"{count(len(table), 'patch')} kept")
    console.print(f"hard      {escape(str(out))}")
    console.print(f"next      digipath train COHORT --hard-examples {escape(str(out))}")


def print_hard(console: Console, found: list[HardPatches], spec: MiningSpec) -> None:
    """How many patches were looked at, and how many of each kind are hard."""
    patches = sum(hard.looked_at for hard in found)
    tumor, alarms = (sum(getattr(h, k) for h in found) for k in ("tumor", "alarms"))
    console.print(
        f"{count(len(found), 'slide')}, {count(patches, 'patch')} of "
        f"{spec.fit_patch_px} px looked at: {tumor:,} hard for their tumor (Dice below "
        f"{spec.dice:g} at probability {spec.dice_at:g}), {alarms:,} for a false alarm "
        f"(probability {spec.alarm_at:g} or more, less than {spec.max_tumor:.0%} tumor)"
    )


def export_regions(
    console: Console, mined: MinedRun, folder: Path, *, spec: RegionSpec
) -> None:
    """Write the most uncertain regions of every slide as GeoJSON."""
    needed_channels(mined.config.channels, spec.map)
    threshold = mined.config.outcome.threshold

    def export(record: DoneRecord) -> int:
        slide = read_finished(mined.directory, record)
        regions = find_regions(slide, spec.map, top=spec.top, region_um=spec.region_um)
        features = region_features(slide, regions, spec.map, threshold=threshold)
        if regions:
            write_regions(folder / f"{slide.record.slide_id}.geojson", features)
        return len(regions)

    counts = [n for n in mined.each(mined.records, export) if n]
    console.print(
        f"{count(sum(counts), 'region')} of {spec.region_um:g} um on "
        f"{count(len(counts), 'slide')}, with what was predicted at {threshold:.3g}"
    )
    console.print(f"regions   {escape(str(folder))}/<slide_id>.geojson")
    console.print(
        "next      correct them in QuPath, export under the same name, and "
        f"digipath train COHORT --extra-annotations {escape(str(folder))}"
    )


def warn_of_seen(console: Console, mined: MinedRun, slide_ids: Sequence[str]) -> None:
    """Say of how many slides the members that predicted them had been fitted on."""
    seen = [i for i in slide_ids if mined.records[i].was_seen]
    if seen:
        console.print(
            f"[yellow]note[/] {len(seen)} of {count(len(slide_ids), 'slide')}, "
            f"e.g. {escape(seen[0])}, were predicted by members fitted on them: "
            "what is hard for those says little; run with --out-of-fold, and mine that"
        )
    members = mined.config.members
    cards = read_exposure(members).cards
    blank = [m.name for m in members if m.name not in cards]
    if blank:
        console.print(
            f"[yellow]note[/] no card of {escape(', '.join(blank))}: it is unknown "
            "which slides they were fitted on"
        )


def print_passed(console: Console, mined: MinedRun, *, hard: bool) -> int:
    """Print which slides were left out; 1 if one could not be read."""
    if mined.test:
        console.print(f"{count(len(mined.test), 'slide')} held back for the test")
    if mined.unknown and hard:
        unknown = count(len(mined.unknown), "slide")
        console.print(f"{unknown} neither annotated nor negative, so not mined")
    for slide_id, why in mined.failed.items():
        console.print(f"[red]failed[/] {escape(slide_id)}: {escape(why)}")
    return 1 if mined.failed else 0
