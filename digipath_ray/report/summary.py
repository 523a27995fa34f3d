"""Summary of a run in a few sentences and numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from digipath_ray.outcome.staging import PnStage
from digipath_ray.report.evidence import NO_STAGE, stage_counts
from digipath_ray.report.findings import Findings
from digipath_ray.report.slides import SlideView
from digipath_ray.report.words import TYPES, format_area, percent
from digipath_ray.words import count, plural

STAGE_TONES = {
    PnStage.N0: "negative",
    PnStage.N0_ITC: "itc",
    PnStage.N1_MICRO: "micro",
    PnStage.N1: "macro",
    PnStage.N2: "macro",
    PnStage.N3A: "macro",
}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A large number in the summary.

    Attributes:
        value: number or stage.
        before: small text before it.
        label: what it counts.
        tone: color: a slide type, "failed", "tumor" or "plain".
    """

    value: str
    label: str
    tone: str = "plain"
    before: str = ""


def write_lead(findings: Findings, slides: Sequence[SlideView]) -> str:
    """Sentence on how many slides were analyzed and failed."""
    done, total = len(findings.outcomes), len(slides)
    if total == 0:
        return "This run has no slides yet."
    patients = {s.patient_id for s in slides if s.patient_id is not None}
    of = f" of {count(len(patients), 'patient')}" if patients else ""
    if done == total:
        both = {1: "The slide", 2: "Both slides"}.get(total, f"All {total:,} slides")
        return f"{both}{of} {'was' if total == 1 else 'were'} analyzed."
    failed, waiting = len(findings.failures), len(findings.unfinished)
    analyzed = f"{done:,}" if done else "None"
    were = "was" if done == 1 else "were"
    text = f"{analyzed} of {count(total, 'slide')}{of} {were} analyzed"
    rest = [f"{failed:,} failed"] if failed else []
    rest += [f"{waiting:,} not yet"] if waiting else []
    return f"{text}; {', '.join(rest)}."


def make_tiles(findings: Findings) -> list[list[Tile]]:
    """Groups of numbers: patients by stage, slides by result."""
    match findings.config.outcome.outcome:
        case "stage":
            groups = [list(_stages(findings)), list(_types(findings))]
        case "burden":
            groups = [list(_burdens(findings))]
        case "none":
            groups = [list(_areas(findings))]
    missing = len(findings.failures) + len(findings.unfinished)
    if missing:
        groups[-1].append(
            Tile(value=f"{missing:,}", label="not analyzed", tone="failed")
        )
    return [group for group in groups if group]


def _stages(findings: Findings) -> Iterator[Tile]:
    for (stage, complete), patients in stage_counts(findings.patients).items():
        yield Tile(
            value=NO_STAGE if stage is None else stage,
            label=count(patients, "patient"),
            tone="failed" if stage is None else STAGE_TONES[stage],
            before="" if complete or stage is None else "at least",
        )


def _types(findings: Findings) -> Iterator[Tile]:
    found = [row["metastasis"] for row in findings.outcomes.values()]
    for kind in reversed(TYPES):
        number = found.count(kind)
        if found:
            yield Tile(
                value=f"{number:,}", label=plural(number, TYPES[kind]), tone=kind
            )


def _burdens(findings: Findings) -> Iterator[Tile]:
    rows = list(findings.outcomes.values())
    burdens = [row["burden"] for row in rows if row["burden"] is not None]
    if burdens:
        label = "median tumor burden" if len(burdens) > 1 else "tumor burden"
        yield Tile(value=percent(median(burdens)), label=label, tone="tumor")
    if len(burdens) > 1:
        ends = f"{percent(min(burdens))} to {percent(max(burdens))}"
        yield Tile(value=ends, label=f"range over {count(len(burdens), 'slide')}")
    if len(rows) > len(burdens):
        without = f"{len(rows) - len(burdens):,}"
        yield Tile(value=without, label="without tumor found", tone="negative")


def _areas(findings: Findings) -> Iterator[Tile]:
    rows = list(findings.outcomes.values())
    if not rows:
        return
    with_tumor = sum(row["lesions"] > 0 for row in rows)
    yield Tile(value=f"{with_tumor:,}", label="with tumor", tone="tumor")
    without = len(rows) - with_tumor
    yield Tile(value=f"{without:,}", label="without tumor found", tone="negative")
    area = sum(row["tumor_mm2"] for row in rows)
    yield Tile(value=format_area(area), label="tumor in all")
