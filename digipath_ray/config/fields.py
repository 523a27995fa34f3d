"""Fields of settings: their help texts, and the refusal of wrong values."""

from dataclasses import field
from typing import Any, get_args


def option(default: Any, help: str, *, flag: str | None = None) -> Any:
    """A field with its default, and the help text of the option made from it.

    Args:
        default: of the field.
        help: of the option.
        flag: name of the option where the field's alone would not say what it is of.
    """
    named = {} if flag is None else {"flag": flag}
    return field(default=default, metadata={"help": help, **named})


def check(ok: bool, name: str, value: object, want: str) -> None:
    """Refuse a field's value unless it is ok, naming both and what is wanted."""
    if not ok:
        raise ValueError(f"{name} = {value!r}: {want}")


def check_choice(name: str, value: object, literal: Any) -> None:
    """Refuse a value that is not among a Literal's."""
    choices = get_args(literal)
    check(value in choices, name, value, "choose from " + ", ".join(choices))
