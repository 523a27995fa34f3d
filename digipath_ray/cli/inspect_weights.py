"""``digipath weights inspect``: what a network's file says, and a card to complete."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from digipath_ray.networks.card import card_path
from digipath_ray.networks.inspection import Inspection, inspect_file
from digipath_ray.storage.files import publish


def inspect_weights(
    console: Console, path: Path, *, output: str | None, overwrite: bool
) -> int:
    """Print what can be told of a file, and write its card with what is asked.

    Raises:
        ValueError: it can be no member's; or its card is there already.
        OSError: a file cannot be read or written.
    """
    card = card_path(path)
    if card.exists() and not overwrite:
        raise ValueError(f"{card}: there already; --overwrite writes another")
    found = inspect_file(path, output=output)
    for heading, text in found.facts.items():
        console.print(f"[bold]{heading}[/]  {escape(text)}")
    with publish(card) as temporary:
        text = json.dumps(found.card(), indent=2) + "\n"
        temporary.write_text(text, encoding="utf-8")
    _print_questions(console, card, found)
    return 0


def _print_questions(console: Console, card: Path, found: Inspection) -> None:
    console.print(
        f"\nWrote {escape(str(card))}. To be answered in it, where it is null:"
    )
    for key, question in found.questions.items():
        console.print(f"  [bold]{key}[/]  {escape(question)}")
