"""Parts of the report page, with all numbers formatted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from digipath_ray.networks.notes import member_notes
from digipath_ray.report.evidence import PatientView, view_patients
from digipath_ray.report.facts import Facts
from digipath_ray.report.findings import Findings, Row
from digipath_ray.report.methods import write_methods
from digipath_ray.report.slides import SlideView, view_slides
from digipath_ray.report.summary import Tile, make_tiles, write_lead
from digipath_ray.report.words import percent
from digipath_ray.words import count


@dataclass(frozen=True, kw_only=True)
class MemberView:
    """A network or the stage model, with the digest of its weights."""

    name: str
    network: str
    weights: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """Content of the template, except for the previews.

    Attributes:
        findings: findings of the run.
        ending: "stage", "burden" or "none".
        by_model: whether types are from the forests rather than the size rule.
        warnings: limits of the findings as prediction or test.
        lead: first sentence of the summary.
        tiles: groups of numbers of the summary.
        first: slides to review, most urgent first.
        others: other slides, by disagreement of the members.
        patients: patients sorted by name.
        members: members of the ensemble, and the stage model, if any.
        methods: paragraphs of the methods.
        run_facts: speed of the run.
    """

    findings: Findings
    ending: str
    by_model: bool
    warnings: tuple[str, ...]
    lead: str
    tiles: tuple[tuple[Tile, ...], ...]
    first: tuple[SlideView, ...]
    others: tuple[SlideView, ...]
    patients: tuple[PatientView, ...]
    members: tuple[MemberView, ...]
    methods: tuple[str, ...]
    run_facts: Facts

    @property
    def slides(self) -> tuple[SlideView, ...]:
        """All slides in page order."""
        return (*self.first, *self.others)


def lay_out(findings: Findings) -> Page:
    """Build the page of a run."""
    config, slides = findings.config, view_slides(findings)
    precisions = {record.precision for record in findings.records.values()}
    return Page(
        findings=findings,
        ending=config.outcome.outcome,
        by_model=any(row["votes"] for row in findings.outcomes.values()),
        warnings=tuple(_warnings(findings)),
        lead=write_lead(findings, slides),
        tiles=tuple(tuple(group) for group in make_tiles(findings)),
        first=tuple(slide for slide in slides if slide.reasons),
        others=tuple(slide for slide in slides if not slide.reasons),
        patients=tuple(view_patients(findings.patients, slides)),
        members=tuple(_members(findings)),
        methods=tuple(
            write_methods(
                config, findings.metrics, precision=min(precisions, default=None)
            )
        ),
        run_facts=tuple(_run_facts(findings.metrics)),
    )


def _warnings(findings: Findings) -> Iterator[str]:
    for note in member_notes(findings.config):
        yield f"{note[0].upper()}{note[1:]}."
    seen = sum(bool(row["seen_by"]) for row in findings.outcomes.values())
    if seen:
        yield (
            f"{count(seen, 'slide')}, or others of the same patients, were used to "
            "train members: their results are not an independent test."
        )


def _members(findings: Findings) -> Iterator[MemberView]:
    for member in findings.config.members:
        on = f" on {member.encoder}" if member.encoder else ""
        yield MemberView(
            name=member.name,
            network=f"{member.architecture}{on}",
            weights=member.weights or "none",
            digest=member.digest or "none",
        )
    stage_model = findings.config.outcome.stage_model
    if stage_model is not None:
        yield MemberView(
            name="metastasis types",
            network="four random forests",
            weights=stage_model,
            digest=findings.stage_model or "file missing",
        )


def _run_facts(metrics: Row) -> Iterator[tuple[str, str]]:
    """Speed of the run, as far as recorded."""
    if "patches" in metrics:
        rate = metrics.get("patches_per_s")
        at = f", {rate:.3g} a second" if rate is not None else ""
        yield "patches", f"{metrics['patches']:,}{at}"
        share = metrics.get("predicted_share", 1.0)
        if share < 1:
            yield "of these predicted, mean of the networks", f"{share:.0%}"
    for key, name in (
        ("prepare_s", "finding tissue"),
        ("start_s", "starting up"),
        ("segment_s", "segmenting"),
    ):
        if metrics.get(key) is not None:
            yield name, format_exact_duration(metrics[key])
    if "read" in metrics:
        yield "readers", _format_busy(metrics["read"])
    if "predict" in metrics:
        yield (
            "networks",
            f"{_format_busy(metrics['predict'])}, on {metrics['predict']['on']}",
        )
    if "batch_fill" in metrics:
        yield "batches", f"{percent(metrics['batch_fill'])} full"
    if "bottleneck" in metrics:
        yield "bottleneck", metrics["bottleneck"]
    machine: dict[str, Any] = metrics.get("machine", {})
    if machine:
        yield "machine", ", ".join(f"{key} {value}" for key, value in machine.items())


def _format_busy(stage: Row) -> str:
    workers = count(stage["workers"], "worker")
    return f"{workers}, busy {percent(stage['busy'])} of the time"


def format_exact_duration(seconds: float) -> str:
    """Format a duration: ``12 s``, ``3 min 20 s``, ``5 h 7 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
