"""``digipath train``: an annotated cohort in, an ensemble with model cards out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.annotations import Account
from digipath_ray.cli.ids import read_given
from digipath_ray.cli.run import print_failure
from digipath_ray.cohort.drawn import MOST_LINES, describe_accounts
from digipath_ray.cohort.pseudonyms import SlideIds
from digipath_ray.config.toml import Tree
from digipath_ray.distributed.fit import FitListener, FitSummary, fit_cohort
from digipath_ray.networks.card import ModelCard
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.run.failure import Failure
from digipath_ray.storage.files import read_json, read_table
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.folds import Folds
from digipath_ray.words import count


def train_cohort(
    console: Console,
    slides: Sequence[str],
    out: str | Path,
    tree: Tree,
    *,
    init: str | None,
    overwrite: bool,
    slide_ids: SlideIds = "name",
) -> int:
    """Fit an ensemble and print how it went; 1 if a slide could not be read."""
    directory = FitDirectory(out)
    rows = read_given(directory, slides, slide_ids)
    recipe = resolve_recipe(tree, init=init)
    summary = fit_cohort(
        directory, rows, recipe, overwrite=overwrite, listener=narrate(console)
    )
    print_fit(console, summary)
    return 1 if summary.failures else 0


def narrate(console: Console) -> FitListener:
    """A watcher that prints a line per event; slides in steps of a tenth."""

    def noted(note: str) -> None:
        console.print(f"[yellow]note[/] {escape(note)}")

    def sampled(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            console.print(f"patches drawn on {done} of {count(total, 'slide')}")

    def unusable(failures: Sequence[Failure]) -> None:
        # Before the members are fitted, which may take days, and may be refused.
        for failure in failures[:MOST_LINES]:
            print_failure(console, failure)
        if len(failures) > MOST_LINES:
            more = count(len(failures) - MOST_LINES, "more slide")
            console.print(f"[red]failed[/] {more}: see failures.parquet")

    def annotated(accounts: Mapping[str, Account]) -> None:
        for line in describe_accounts(accounts):
            noted(line)

    def folded(folds: Folds) -> None:
        for warning in folds.warnings:
            noted(warning)

    def planned(member: str, epochs: int, patches: int) -> None:
        # The first epoch's line may be hours away.
        console.print(
            f"{escape(member)}: {count(epochs, 'epoch')} at most, of "
            f"{count(patches, 'patch')}"
        )

    def resumed(member: str, epochs: int) -> None:
        done = count(epochs, "epoch")
        console.print(f"{escape(member)}: resumed, {done} done before")

    def epoch_ended(member: str, row: dict[str, Any]) -> None:
        console.print(escape(format_epoch(member, row)))

    return FitListener(
        noted=noted,
        placed=lambda place: console.print(escape(place)),
        sampled=sampled,
        unusable=unusable,
        annotated=annotated,
        folded=folded,
        planned=planned,
        resumed=resumed,
        epoch_ended=epoch_ended,
    )


def format_epoch(member: str, row: dict[str, Any]) -> str:
    """An epoch in a line."""
    dice = row["validation_dice"]
    frozen = ", encoder frozen" if row["frozen"] else ""
    return (
        f"{member}: epoch {row['epoch']}, loss {row['train_loss']:.4f}, validation "
        f"{row['validation_loss']:.4f} (Dice {_number(dice)}), "
        f"rate {row['learning_rate']:.0e}{frozen}; {row['samples_per_s']:.1f} patches "
        f"a second, {row['data_wait']:.0%} of it waiting for them; "
        f"{row['tumor_share']:.0%} with tumor"
    )


def print_fit(console: Console, summary: FitSummary) -> None:
    """The members' scores, the failures with their fixes, and where to look."""
    console.rule("on the validation slides of each member")
    console.print(member_table(summary.cards))
    directory = summary.directory
    scores = read_json(directory.scores)
    if "test" in scores:
        print_test(console, scores["test"])
    for failure in summary.failures:
        print_failure(console, failure)
    folds = read_table(directory.folds)
    tumor = sum(folds["tumor_patches"].to_pylist())
    normal = sum(folds["normal_patches"].to_pylist())
    earlier = f" ({summary.skipped} already were)" if summary.skipped else ""
    console.print(
        f"{count(len(summary.cards), 'member')} fitted{earlier} on "
        f"{count(len(folds), 'slide')} of {summary.slides}: {tumor} patches with "
        f"tumor, {normal} without"
    )
    added = directory.read_tables(directory.added, folds["slide_id"].to_pylist())
    if patches := sum(len(table) for table in added):
        console.print(f"{count(patches, 'patch')} added to be fitted on, not validated")
    root = directory.root
    for name, where in (
        ("weights", f"{root}/*.safetensors, each with its card (.json)"),
        ("curves", f"{root}/curves/*.png"),
        ("patches", f"{root}/masks/*_overlay.jpg"),
        ("next", f"digipath run SLIDES --weights {root} --out RUN"),
    ):
        console.print(f"{name:<10}{escape(where)}")


def print_test(console: Console, test: dict[str, Any]) -> None:
    """Members and ensemble on the patients that no member has seen."""
    slides, patients = count(len(test["slides"]), "slide"), len(test["patients"])
    whose = f" of {count(patients, 'patient')}" if patients else ""
    console.rule(f"on {slides}{whose} that no member has seen")
    table = Table(box=None, pad_edge=False)
    table.add_column("member", overflow="fold")
    for name in ("Dice", "Jaccard", "threshold", "AUROC", "ECE"):
        table.add_column(name, justify="right")
    for member, scores in test.items():
        if isinstance(scores, dict):
            names = ("dice", "jaccard", "threshold", "auroc")
            values = [*names, "expected_calibration_error"]
            table.add_row(escape(member), *(_number(scores[name]) for name in values))
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def member_table(cards: Sequence[ModelCard]) -> Table:
    """What each member is worth on its validation slides."""
    table = Table(box=None, pad_edge=False)
    table.add_column("member", overflow="fold")
    names = ("epochs", "kept", "loss", "Dice", "Jaccard", "threshold", "AUROC", "ECE")
    for name in names:
        table.add_column(name, justify="right")

    for card in cards:
        training = card.training
        scores = training["validation"]
        table.add_row(
            escape(card.name),
            str(training["epochs"]),
            str(training["kept_epoch"]),
            _number(training["validation_loss"]),
            _number(scores["dice"]),
            _number(scores["jaccard"]),
            _number(scores["threshold"]),
            _number(scores["auroc"]),
            _number(scores["expected_calibration_error"]),
        )
    return table
