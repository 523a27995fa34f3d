"""Damage of any file, and of text: JSON, XML, TOML and CSV."""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A valid file.

    Attributes:
        name: what it is called, with its suffix.
        data: its bytes.
        checked: byte ranges (start, stop) that a checksum in the file covers.
    """

    name: str
    data: bytes
    checked: Spans = ()


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A damaged file.

    Attributes:
        data: its bytes.
        what: was done to it.
        is_checked: only bytes that a checksum covers were changed.
    """

    data: bytes
    what: str
    is_checked: bool = False


Mutator = Callable[[Seed, Sequence[Seed], random.Random], Mutant]
"""(seed, all seeds of its kind, random numbers) -> mutant."""

SECRET = "SECRET_FILE"
"""In a mutant's text: where the path of a file is put that nobody may read."""
NUMBERS = (
    "0", "-1", "1", "-0.0", "1e308", "-1e308", "1e-308", "1e999", "NaN", "-Infinity",
    "2147483647", "4294967295", "18446744073709551616", "9" * 400, "0.1", "true",
    "null", '""', "[]", "{}", '"text"', "[1, 2]", "1.5", "99999999999",
)  # fmt: skip
"""Values as JSON, which take the place of any other."""
TEXTS = (
    "", " ", "0", "-1", "nan", "inf", "-inf", "1e308", "99999999999999999999", "None",
    "null", "true", "x" * 70_000, "\N{COMBINING ACUTE ACCENT}" * 50, "a\nb", "a\tb",
    "../../../outside", "/etc/passwd", "..", ".", "~", "%s%n", "\N{RIGHT-TO-LEFT MARK}",
    "\N{ROCKET}", "a,b;c", '"', "'", "<b>&amp;", "[red]x[/red]", "s3://", "file:///x",
)  # fmt: skip
DEPTHS = (50, 990, 5_000, 200_000)
"""Levels of nesting; Python recurses about a thousand deep."""
ENTITIES = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]>",
    f'<!DOCTYPE x [<!ENTITY j SYSTEM "file://{SECRET}">]>',
    f'<!DOCTYPE x SYSTEM "file://{SECRET}">',
    f'<!DOCTYPE x [<!ENTITY % p SYSTEM "file://{SECRET}"> %p;]>',
)
"""A billion laughs, and files from elsewhere; ``&j;`` is used where text stands."""


def truncate(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    at = rng.randrange(len(seed.data) + 1)
    return Mutant(data=seed.data[:at], what=f"cut at byte {at}")


def flip_bits(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    count = min(64, int(2 ** rng.uniform(0, 6.1)))
    data = bytearray(seed.data)
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return Mutant(data=bytes(data), what=f"{count} bits flipped")


def flip_checked(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Flip bits that a checksum covers; of a seed without any, bits anywhere."""
    if not seed.checked:
        return flip_bits(seed, others, rng)
    data, count = bytearray(seed.data), rng.randint(1, 8)
    for _ in range(count):
        start, stop = rng.choice(seed.checked)
        data[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    what = f"{count} bits flipped under a checksum"
    return Mutant(data=bytes(data), what=what, is_checked=bytes(data) != seed.data)


def zero_run(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    start = rng.randrange(len(seed.data))
    length = min(len(seed.data) - start, int(2 ** rng.uniform(0, 12)))
    data = seed.data[:start] + bytes(length) + seed.data[start + length :]
    return Mutant(data=data, what=f"{length} bytes zeroed at {start}")


def splice(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """Go on with another seed of the kind from some byte on, or insert a part of it."""
    other = rng.choice(others).data
    at, start = rng.randrange(len(seed.data) + 1), rng.randrange(len(other) + 1)
    length = int(2 ** rng.uniform(0, 14))
    if rng.random() < 0.5:
        data, what = seed.data[:at] + other[start:], "goes on with another file"
    else:
        part = other[start : start + length]
        data, what = seed.data[:at] + part + seed.data[at:], "a part inserted"
    return Mutant(data=data, what=f"{what} at {at}")


BYTES: tuple[Mutator, ...] = (truncate, flip_bits, zero_run, splice)
"""What is done to every kind of file."""


def control_characters(
    seed: Seed, others: Sequence[Seed], rng: random.Random
) -> Mutant:
    data = seed.data
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data) + 1)
        odd = rng.choice(
            (b"\0", b"\x1b[2J", b"\x7f", b"\xff", b"\xc3", b"\xef\xbb\xbf")
        )
        data = data[:at] + odd + data[at:]
    return Mutant(data=data, what="control characters or invalid UTF-8")


def change_json(value: Any, rng: random.Random) -> Any:
    """The value with one of its parts replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, changed = rng.choice(list(value)), dict(value)
        dice = rng.random()
        if dice < 0.08:
            del changed[key]
        elif dice < 0.14:
            changed[rng.choice(TEXTS)] = changed.pop(key)
        else:
            changed[key] = change_json(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:at] + value[at + 1 :]
        return [*value[:at], change_json(value[at], rng), *value[at + 1 :]]
    if rng.random() < 0.3:
        return rng.choice(TEXTS)
    chosen = rng.choice(NUMBERS)
    return float("inf") if chosen == "1e999" else json.loads(chosen)


def json_values(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    changed = json.loads(seed.data)
    for _ in range(rng.randint(1, 3)):
        changed = change_json(changed, rng)
    return Mutant(data=json.dumps(changed).encode(), what="values of JSON replaced")


def json_nesting(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    depth, text = rng.choice(DEPTHS), seed.data.decode()
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ("[", "")))
    nested = opening * depth + "1" + closing * depth
    spots = [m.span() for m in re.finditer(r'(?<=: )("[^"]*"|[-\d.]+|null)', text)]
    start, stop = rng.choice(spots) if spots and rng.random() < 0.7 else (0, len(text))
    data = text[:start] + nested + text[stop:]
    return Mutant(data=data.encode(), what=f"nested {depth} deep")


JSON: tuple[Mutator, ...] = (
    *(json_values,) * 4, json_nesting, control_characters, truncate, flip_bits, splice,
)  # fmt: skip


def text_values(pattern: str) -> Mutator:
    """Replaces one to three texts that a pattern's first group matches."""
    found_by = re.compile(pattern)

    def mutate(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
        text = seed.data.decode()
        for _ in range(rng.randint(1, 3)):
            spots = [m.span(1) for m in found_by.finditer(text)]
            if not spots:
                break
            start, stop = rng.choice(spots)
            value = rng.choice((rng.choice(TEXTS), rng.choice(NUMBERS)))
            text = text[:start] + value + text[stop:]
        return Mutant(data=text.encode(), what="values replaced")

    return mutate


def xml_entities(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    text, declared = seed.data.decode(), rng.choice(ENTITIES)
    declaration = re.match(r"<\?xml.*?\?>", text)
    at = declaration.end() if declaration else 0
    spots = [m.span(1) for m in re.finditer(r'="([^"]*)"|>([^<]*)<', text[at:])]
    start, stop = rng.choice([s for s in spots if s[0] >= 0] or [(0, 0)])
    used = text[at:][:start] + "&j;" + text[at:][stop:]
    return Mutant(data=(text[:at] + declared + used).encode(), what="entities declared")


def xml_nesting(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    depth, text = rng.choice(DEPTHS), seed.data.decode()
    at = rng.choice([m.end() for m in re.finditer(r"<\w[^>]*[^/]>", text)] or [0])
    nested = "<a>" * depth + "</a>" * depth
    data = (text[:at] + nested + text[at:]).encode()
    return Mutant(data=data, what=f"nested {depth} deep")


XML: tuple[Mutator, ...] = (
    *(text_values(r'="([^"]*)"'),) * 4, xml_entities, xml_nesting, control_characters,
    truncate, flip_bits, zero_run, splice,
)  # fmt: skip


def toml_nesting(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    depth = rng.choice(DEPTHS[:3])
    nested = rng.choice(("[" * depth + "]" * depth, "{a=" * depth + "1" + "}" * depth))
    lines = seed.data.decode().split("\n")
    at = rng.choice([i for i, line in enumerate(lines) if " = " in line])
    lines[at] = f"{lines[at].partition(' = ')[0]} = {nested}"
    return Mutant(data="\n".join(lines).encode(), what=f"nested {depth} deep")


def toml_lines(seed: Seed, others: Sequence[Seed], rng: random.Random) -> Mutant:
    """A line doubled, removed or moved; a section renamed or made a value."""
    lines = seed.data.decode().split("\n")
    at = rng.randrange(len(lines))
    odd = (lines[at], "[[grid]]", "grid = 1", "members = 1", "[members]", "[a.b.c]")
    lines[at : at + rng.randrange(2)] = [rng.choice((*odd, "preset = 1"))] * 2
    return Mutant(data="\n".join(lines).encode(), what="lines doubled or replaced")


TOML: tuple[Mutator, ...] = (
    *(text_values(r"(?m) = (.*)$"),) * 4, toml_nesting, toml_lines, control_characters,
    truncate, flip_bits, splice,
)  # fmt: skip
CSV: tuple[Mutator, ...] = (
    *(text_values(r"([^,\t\r\n]+)"),) * 4, control_characters, *BYTES,
)  # fmt: skip
