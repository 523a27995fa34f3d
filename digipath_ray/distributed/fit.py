"""Trains an ensemble: Ray tasks draw patches, a Ray Train run fits each member.

    sample (one task per slide) -> folds -> per member: TorchTrainer with workers fed by
    Ray Data -> weights, card and curves -> the ensemble, scored on test patients

A restarted fit resumes: finished members are skipped, the others continue from their
last checkpoint.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch

from digipath_ray import schema
from digipath_ray.annotations import Account
from digipath_ray.cohort.drawn import check_cohort_classes
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.run import contexts_of
from digipath_ray.distributed.attempts import explain
from digipath_ray.distributed.connect import connected, describe_place
from digipath_ray.distributed.fit_member import check_gpus, divide_fit, fit_member
from digipath_ray.distributed.fit_samples import sample_cohort
from digipath_ray.networks.card import ModelCard, mean_threshold, read_card
from digipath_ray.networks.weights import card_spec, load_member
from digipath_ray.run.failure import Failure, RunStopped
from digipath_ray.storage.files import is_url, read_table
from digipath_ray.storage.lease import Held
from digipath_ray.training.calibration import Histogram
from digipath_ray.training.conclusion import is_finished, patients_of
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.fit import columns_of
from digipath_ray.training.folds import Folds, Split, assign_folds, check_patients
from digipath_ray.training.reader import PatchReader
from digipath_ray.training.sampled import (
    accounts_of,
    added_samples,
    annotation_rows,
    own_samples,
)
from digipath_ray.training.sampling import (
    draw_validation,
    epoch_length,
    is_tumor,
    kept_slides,
    lacks_kind,
)
from digipath_ray.training.scoring import ENSEMBLE, count_predictions, describe

log = logging.getLogger(__name__)

POLL_S, BUCKET_POLL_S = 1.0, 10.0
"""Seconds between progress polls: buckets charge per request."""


@dataclass(frozen=True, kw_only=True)
class FitListener:
    """Receives the progress of a fit."""

    noted: Callable[[str], None] = lambda note: None
    placed: Callable[[str], None] = lambda place: None
    sampled: Callable[[int, int], None] = lambda done, total: None
    unusable: Callable[[Sequence[Failure]], None] = lambda failures: None
    annotated: Callable[[Mapping[str, Account]], None] = lambda accounts: None
    folded: Callable[[Folds], None] = lambda folds: None
    planned: Callable[[str, int, int], None] = lambda member, epochs, patches: None
    resumed: Callable[[str, int], None] = lambda member, epochs: None
    epoch_ended: Callable[[str, dict[str, Any]], None] = lambda member, row: None


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """Result of a fit."""

    directory: FitDirectory
    slides: int
    skipped: int
    """Members finished by an earlier start."""
    cards: list[ModelCard]
    folds: Folds
    failures: list[Failure] = field(default_factory=list)


def fit_cohort(
    directory: FitDirectory,
    rows: Sequence[SlideRow],
    recipe: Recipe,
    *,
    overwrite: bool = False,
    listener: FitListener | None = None,
) -> FitSummary:
    """Fit every member that is not finished.

    Args:
        directory: directory of the fit.
        rows: the annotated cohort.
        recipe: resolved (:func:`digipath_ray.networks.recipe.resolve_recipe`).
        overwrite: discard earlier results and start over.
        listener: receives the progress.

    Raises:
        RunError: the directory is in use, not writable or of another fit.
        ValueError: the cohort does not give tumor and normal patches to every member.
        RunStopped: a member's fit ended early, or another fit has taken over the
            directory; finished results are kept.
    """
    listener = listener or FitListener()
    for note in check_patients(rows, k=recipe.fit.folds):
        listener.noted(note)
    with directory.lock() as held:
        directory.create()
        for note in directory.accept(recipe, rows, overwrite=overwrite):
            listener.noted(note)
        cpus = recipe.fit.cpus
        with connected(cpus):
            listener.placed(describe_place(cpus))
            return _fit(directory, rows, recipe, listener, held)


def _fit(
    directory: FitDirectory,
    rows: Sequence[SlideRow],
    recipe: Recipe,
    listener: FitListener,
    held: Held,
) -> FitSummary:
    """Fit every unfinished member, in a directory that is held."""
    gpus = (recipe.fit.worker_gpus or 0.0) * recipe.fit.workers
    check_gpus(gpus, ray.cluster_resources())
    tables, failures = sample_cohort(
        directory, rows, recipe, report=lambda n: listener.sampled(n, len(rows))
    )
    failures += refuse_unclassified(rows, tables)
    write_failures(directory, failures)
    annotations = annotation_rows(rows, tables)
    directory.write_table(directory.annotations, annotations, schema.ANNOTATIONS)
    listener.unusable(failures)
    listener.annotated(accounts_of(tables))
    folds = settle_folds(directory, rows, tables, recipe)
    listener.folded(folds)
    names = [m.name for m in recipe.members]
    todo = [i for i, name in enumerate(names) if not is_finished(directory, name)]
    for i in todo:
        fitted = check_both_kinds(names[i], folds.split_of(i), tables, directory)
        length = epoch_length(fitted, recipe.sampling, recipe.fit.batch_size)
        listener.planned(names[i], recipe.fit.epochs, length)
    failures += fit_members(directory, todo, recipe, rows, folds, listener, held)
    write_failures(directory, failures)
    cards = [read_card(directory.weights(name)) for name in names]
    write_scores(directory, recipe, rows, folds, cards)
    directory.remove_unfinished()
    return FitSummary(
        directory=directory,
        slides=len(rows),
        skipped=len(names) - len(todo),
        cards=cards,
        folds=folds,
        failures=failures,
    )


def refuse_unclassified(
    rows: Sequence[SlideRow], tables: dict[str, pa.Table]
) -> list[Failure]:
    """Take out slides whose tumor has no class where others' has; their failures."""
    errors = check_cohort_classes(accounts_of(tables))
    for slide_id in errors:
        del tables[slide_id]
    return [
        explain(errors[row.slide_id], row, "prepare")
        for row in rows
        if row.slide_id in errors
    ]


def write_failures(directory: FitDirectory, failures: Sequence[Failure]) -> None:
    """Write the FAILURES table."""
    rows = [vars(failure) for failure in failures]
    directory.write_table(directory.failures, rows, schema.FAILURES)


def write_scores(
    directory: FitDirectory,
    recipe: Recipe,
    rows: Sequence[SlideRow],
    folds: Folds,
    cards: Sequence[ModelCard],
) -> None:
    """Write the members' validation scores, and all scores on test patients, if any."""
    scores: dict[str, Any] = {
        "validation": {c.name: c.training["validation"] for c in cards}
    }
    tested = sorted(i for i, fold in folds.fold_of.items() if fold is None)
    if tested:
        share = divide_fit(recipe, 1)
        task = ray.remote(num_cpus=share.worker_cpus, num_gpus=share.worker_gpus)(
            score_test
        )
        names = [card.name for card in cards]
        counted = ray.get(task.remote(str(directory.root), recipe, rows, tested, names))
        thresholds = {c.name: c.threshold or 0.5 for c in cards}
        thresholds[ENSEMBLE] = mean_threshold(cards) or 0.5
        scores["test"] = {
            "slides": tested,
            "patients": list(patients_of(tested, rows)),
            **{n: describe(h, thresholds[n]) for n, h in counted.items()},
        }
    directory.write_json(directory.scores, scores)


def score_test(
    root: str,
    recipe: Recipe,
    rows: Sequence[SlideRow],
    slide_ids: Sequence[str],
    names: Sequence[str],
) -> dict[str, Histogram]:
    """Score every member and the ensemble on the patches of some slides."""
    directory = FitDirectory(root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    members = {}
    specs = [card_spec(read_card(path), path) for path in map(directory.weights, names)]
    for spec in specs:
        members[spec.name] = load_member(spec, device=device), columns_of(spec)
    contexts = contexts_of(specs)
    draws = draw_validation(
        own_samples(directory, slide_ids),
        limit=recipe.sampling.validation_patches,
        batch_size=recipe.fit.batch_size,
        seed=recipe.fit.seed,
    )
    size = recipe.fit.batch_size
    with closing(PatchReader({row.slide_id: row for row in rows}, recipe)) as reader:
        batches = (
            reader.read(draws.slice(i, size), contexts)
            for i in range(0, len(draws), size)
        )
        return count_predictions(members, batches)


def settle_folds(
    directory: FitDirectory,
    rows: Sequence[SlideRow],
    tables: dict[str, pa.Table],
    recipe: Recipe,
) -> Folds:
    """Assign folds to the slides with patches, reusing those of an earlier start.

    Raises:
        ValueError: no slide has patches, or the folds cannot be assigned.
    """
    ready = [row for row in rows if row.slide_id in tables]
    if not ready:
        raise ValueError(f"no slide of the cohort is usable: see {directory.failures}")
    counts = {i: int(is_tumor(table).sum()) for i, table in tables.items()}
    strata = {i: int(n > 0) for i, n in counts.items()}
    folds = assign_folds(ready, strata, k=recipe.fit.folds, seed=recipe.fit.seed)
    if directory.folds.exists():
        written = read_table(directory.folds).to_pylist()
        before = {r["slide_id"]: r["fold"] for r in written}
        known = {i: before.get(i, fold) for i, fold in folds.fold_of.items()}
        folds = Folds(k=folds.k, fold_of=known, warnings=folds.warnings)
    table = [
        {
            "slide_id": row.slide_id,
            "patient_id": row.patient_id,
            "fold": folds.fold_of[row.slide_id],
            "tumor_patches": counts[row.slide_id],
            "normal_patches": len(tables[row.slide_id]) - counts[row.slide_id],
        }
        for row in ready
    ]
    directory.write_table(directory.folds, table, schema.FOLDS)
    return folds


def check_both_kinds(
    member: str, split: Split, tables: Mapping[str, pa.Table], directory: FitDirectory
) -> pa.Table:
    """Raise if a split's slides do not give both tumor and normal patches.

    Args:
        member: name of the member.
        split: slides of the member.
        tables: slide_id -> SAMPLES of the slide.
        directory: directory of the fit, with additional samples.

    Returns:
        SAMPLES of the slides that the member is fitted on.

    Raises:
        ValueError: names the member, and what is missing in which part.
    """
    added = added_samples(directory, split.fit)
    fitted = kept_slides([*(tables[i] for i in split.fit), added])
    validated = kept_slides([tables[i] for i in split.validation])
    for part, ids, samples in (
        ("fitted", split.fit, fitted),
        ("validated", split.validation, validated),
    ):
        tumor = int(is_tumor(samples).sum())
        if not 0 < tumor < len(samples):
            raise ValueError(
                f"member {member} is {part} on {len(ids)} slides, but "
                f"{lacks_kind(tumor, len(samples))}; or change --folds or --seed"
            )
    return fitted


def fit_members(
    directory: FitDirectory,
    todo: Sequence[int],
    recipe: Recipe,
    rows: Sequence[SlideRow],
    folds: Folds,
    listener: FitListener,
    held: Held,
) -> list[Failure]:
    """Fit members in parallel as GPUs allow; returns slides that could not be read.

    Raises:
        RunStopped: a member's fit ended early, after the others have finished; or
            another fit has taken over the directory.
    """
    poll_s = BUCKET_POLL_S if is_url(directory.root) else POLL_S
    share = divide_fit(recipe, len(todo))
    task = ray.remote(num_cpus=0, max_retries=0)(fit_member)
    waiting = deque(todo)
    active: dict[ray.ObjectRef, int] = {}
    seen = {
        i: _epochs_before(directory, recipe.members[i].name, listener) for i in todo
    }
    stopped: list[str] = []
    while waiting or active:
        while waiting and len(active) < share.members_at_once:
            i = waiting.popleft()
            active[task.remote(str(directory.root), i, recipe, rows, folds, share)] = i
        done, _ = ray.wait(list(active), num_returns=1, timeout=poll_s)
        stop_if_lost(directory, held, active)
        for i in active.values():
            seen[i] = _report_epochs(
                directory, recipe.members[i].name, seen[i], listener
            )
        for ref in done:
            member = recipe.members[active.pop(ref)].name
            if why := ray.get(ref):
                stopped.append(f"{member}: {why}")
    if stopped:
        lines = "\n  ".join(stopped)
        raise RunStopped(
            f"not all members were fitted:\n  {lines}\nfinished members are kept; "
            "fix the cause and run again to resume from the last checkpoint"
        )
    return directory.read_unread()


def stop_if_lost(
    directory: FitDirectory, held: Held, active: Iterable[ray.ObjectRef]
) -> None:
    """Stop fitting if another fit has taken over the directory.

    Raises:
        RunStopped: the directory was taken over.
    """
    if not held.lost.is_set():
        return
    for ref in active:
        ray.cancel(ref, force=True)
    raise RunStopped(
        f"{directory.root} was taken over by another fit, because this one could not "
        "renew its lease: make sure only one runs, then run again"
    )


def _epochs_before(directory: FitDirectory, member: str, listener: FitListener) -> int:
    """Number of epochs fitted by an earlier start."""
    if not directory.history(member).exists():
        return 0
    epochs = len(directory.read_history(member))
    listener.resumed(member, epochs)
    return epochs


def _report_epochs(
    directory: FitDirectory, member: str, seen: int, listener: FitListener
) -> int:
    """Report the epochs after the first ``seen``; returns their number now."""
    path = directory.history(member)
    if not path.exists():
        return seen
    epochs = directory.read_history(member)
    for row in epochs[seen:]:
        listener.epoch_ended(member, row)
    return len(epochs)
