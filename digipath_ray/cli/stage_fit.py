"""``digipath stage fit`` and ``digipath stage labels``: what is done with labels."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.config.run import RunConfig
from digipath_ray.networks.seen_slides import read_exposure
from digipath_ray.outcome.metastasis.drawing import write_importances
from digipath_ray.outcome.metastasis.fit_forests import Training
from digipath_ray.outcome.metastasis.fit_model import fit_model
from digipath_ray.outcome.metastasis.forests import feature_matrix
from digipath_ray.outcome.metastasis.model import (
    StageCard,
    check_model_name,
    save_stage_model,
    setting_of,
)
from digipath_ray.outcome.metastasis.size_rule import LesionGroup, SizeRule
from digipath_ray.outcome.metastasis.validation import ALL_FORESTS, LabeledSlides
from digipath_ray.outcome.stagelabels import (
    StageLabels,
    read_stage_labels,
    stage_label_file,
    write_submission,
)
from digipath_ray.outcome.staging import Metastasis, PatientStage, PnStage
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_run
from digipath_ray.run.record import DoneRecord
from digipath_ray.storage.files import publish
from digipath_ray.words import count

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class LabeledRun:
    """A finished run beside a label file.

    Attributes:
        config: of the run.
        records: ``done`` records of the slides to fit on.
        labels: of the file.
        test: slides held back for the test.
        unlabeled: slides without a label.
        absent: labeled slides that the run has not finished.
    """

    config: RunConfig
    records: Sequence[DoneRecord]
    labels: StageLabels
    test: int
    unlabeled: int
    absent: int

    @property
    def seen(self) -> list[str]:
        """Slides predicted by members that had been fitted on them or their patient."""
        return [record.slide.slide_id for record in self.records if record.was_seen]


def fit_stage_model(
    console: Console,
    folder: Path,
    labels: Path,
    out: Path,
    *,
    training: Training,
    folds: int = FOLDS,
    overwrite: bool = False,
) -> int:
    """Fit a stage model on a run's slides, write it and print how it went.

    Beside the model its card (``.json``) and its features' importances (``.png``) are
    written, for people to read.

    Raises:
        ValueError: no finished run, no features in it, too few labels, or the model is
            there already.
    """
    check_model_name(out)  # refused now, not after the fit
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: there already; --overwrite, or another --out")
    run = read_labeled(RunDirectory(folder), read_stage_labels(labels))
    print_labeled(console, run)
    spec = run.config.outcome
    mpps = [record.slide.effective_mpp_x for record in run.records]
    model = fit_model(
        labeled_slides(run),
        training,
        folds=folds,
        preset=SizeRule(
            min_extent_um=spec.min_lesion_um,
            min_p=spec.min_lesion_p,
            merge_um=spec.merge_um,
        ),
        setting=setting_of(run.config),
        effective_mpp=(min(mpps), max(mpps)),
        overlap=len(run.seen),
    )
    save_stage_model(out, model)
    card, plot = out.with_suffix(".json"), out.with_suffix(".png")
    with publish(card) as temporary:
        temporary.write_text(json.dumps(asdict(model.card), indent=1), encoding="utf-8")
    write_importances(plot, model.forests, title=out.stem)
    print_card(console, model.card)
    for name, path in (("model", out), ("card", card), ("features", plot)):
        console.print(f"{name:<10}{escape(str(path))}")
    return 0


def read_labeled(run: RunDirectory, labels: StageLabels) -> LabeledRun:
    """The slides of a finished run that have labels and are not held back.

    Raises:
        ValueError: no slide of it is finished, or none that has a label.
    """
    found = read_run(run)
    done = found.records
    test = {i for i, record in done.items() if record.slide.is_test}
    chosen = [i for i in done if i in labels.types and i not in test]
    if not chosen:
        raise ValueError(
            f"{run.root}: none of its {count(len(done), 'slide')} to fit on has a "
            "label: name slides in the label file as in the run"
        )
    return LabeledRun(
        config=found.config,
        records=[done[i] for i in chosen],
        labels=labels,
        test=len(test),
        unlabeled=len(done.keys() - test - labels.types.keys()),
        absent=len(labels.types.keys() - done.keys()),
    )


def labeled_slides(run: LabeledRun) -> LabeledSlides:
    """What the records say of the slides, beside their labels.

    Raises:
        ValueError: a record has no features.
    """
    ids = [record.slide.slide_id for record in run.records]
    features = []
    for slide_id, record in zip(ids, run.records, strict=True):
        if not record.features:
            raise ValueError(
                f"slide {slide_id} has no features: run with --outcome stage, which "
                "measures them from the heatmaps that are there"
            )
        features.append(record.features)
    known = run.labels.patient_of
    return LabeledSlides(
        slide_ids=ids,
        patients=[
            record.slide.patient_id or known.get(slide_id, slide_id)
            for slide_id, record in zip(ids, run.records, strict=True)
        ],
        types=np.array([run.labels.types[i] for i in ids], np.int64),
        features=feature_matrix(features),
        groups=[groups_of(record) for record in run.records],
    )


def groups_of(record: DoneRecord) -> list[LesionGroup]:
    """A slide's merged lesions; which ones they are is in its GeoJSON."""
    return [
        LesionGroup(numbers=(), extent_um=extent_um, max_p=max_p)
        for extent_um, max_p in record.groups
    ]


def print_labeled(console: Console, run: LabeledRun) -> None:
    """Say what is fitted on, what is not, and what is wrong with it."""
    for number, what in (
        (run.test, "held back for the test"),
        (run.unlabeled, "without a label, so not fitted on"),
        (run.absent, "labeled, but not finished in this run"),
    ):
        if number:
            console.print(f"{count(number, 'slide')} {what}")
    if run.seen:
        console.print(
            f"[yellow]note[/] {len(run.seen)} of {count(len(run.records), 'slide')}, "
            f"e.g. {escape(run.seen[0])}, were predicted by members fitted on them "
            "or their patient: new slides will look worse than these; fit on a run "
            "made with --out-of-fold"
        )
    cards = read_exposure(run.config.members).cards
    blank = [m.name for m in run.config.members if m.name not in cards]
    if blank:
        console.print(
            f"[yellow]note[/] no card of {escape(', '.join(blank))}: it is unknown "
            "which slides they were fitted on"
        )


def print_card(console: Console, card: StageCard) -> None:
    """Print what was fitted, and how well it does on patients held out."""
    text = ", ".join(
        f"{n} {kind.label}" for kind, n in zip(Metastasis, card.types, strict=True)
    )
    slides, patients = count(card.slides, "slide"), count(card.patients, "patient")
    console.print(f"{slides} of {patients}: {text}")
    for note in card.notes:
        console.print(f"[yellow]note[/] {escape(note)}")
    console.print(score_table(card.scores))
    console.print(
        f"on patients held out in turn ({card.folds} folds); kappa quadratic-weighted"
    )
    console.print(confusion_table(card.scores[ALL_FORESTS]["confusion"]))
    console.print(
        f"size rule: lesions of at least {card.min_lesion_um:g} um with a probability "
        f"of {card.min_lesion_p:g} somewhere"
    )


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for the size rule and for each forest."""
    table = Table(box=None, pad_edge=False)
    table.add_column("by")
    heads = [kind.label for kind in Metastasis]
    for head in ("accuracy", *heads, "slide kappa", "patient kappa"):
        table.add_column(head, justify="right")
    for name, score in scores.items():
        cells = (
            score["accuracy"],
            *score["sensitivity"],
            score["slide_kappa"],
            score["patient_kappa"],
        )
        table.add_row(escape(name), *(_format_score(cell) for cell in cells))
    return table


def confusion_table(confusion: Sequence[Sequence[int]]) -> Table:
    """Slides by their true type (rows) and the predicted one (columns)."""
    table = Table(box=None, pad_edge=False)
    table.add_column("true \\ predicted")
    for kind in Metastasis:
        table.add_column(kind.label, justify="right")
    for kind, row in zip(Metastasis, confusion, strict=True):
        table.add_row(kind.label, *map(str, row))
    return table


def _format_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def stage_labels(
    console: Console, file: Path, out: Path, *, nodes: int | None = None
) -> int:
    """Stage the patients of a label file and write them as a submission.

    Args:
        console: to print to.
        file: of labels.
        out: the CSV.
        nodes: slides that every patient should have.

    Raises:
        ValueError: the file cannot be read, a slide's patient is not known, or ``out``
            is the file itself.
    """
    if out.exists() and out.samefile(file):
        raise ValueError(f"{out}: the labels themselves: choose another --out")
    labels = read_stage_labels(file)
    patients = stage_label_file(file, expected=nodes)
    stages = {p.patient_id: p.pn_stage for p in patients if p.pn_stage is not None}
    write_submission(out, stages, labels.nodes())
    print_stages(console, patients)
    print_agreement(console, labels.stages, stages)
    console.print(f"stages    {escape(str(out))}")
    return 0


def print_stages(console: Console, patients: Sequence[PatientStage]) -> None:
    """How many patients have each stage, and what to know of single ones."""
    counted = Counter(patient.pn_stage for patient in patients)
    text = ", ".join(f"{counted[stage]} {stage}" for stage in PnStage if counted[stage])
    console.print(f"{count(len(patients), 'patient')}: {text}")
    for patient in patients:
        if patient.note:
            name, note = escape(patient.patient_id), escape(patient.note)
            console.print(f"[yellow]note[/] {name}: {note}")


def print_agreement(
    console: Console, stated: Mapping[str, PnStage], stages: Mapping[str, PnStage]
) -> None:
    """Hold the stages against those that the file states, if it does."""
    by_name = {patient.lower(): stage for patient, stage in stated.items()}
    both = {p: by_name[p.lower()] for p in sorted(stages) if p.lower() in by_name}
    if not both:
        return
    other = [patient for patient in both if both[patient] != stages[patient]]
    console.print(f"{len(both) - len(other)} of {len(both)} as the file states")
    for patient in other:
        console.print(
            f"[yellow]note[/] {escape(patient)}: {stages[patient]} by its slides, the "
            f"file states {both[patient]}"
        )
