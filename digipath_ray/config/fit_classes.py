"""The classes that networks are fitted to tell apart, and their annotations."""

import unicodedata
from dataclasses import dataclass

from digipath_ray.config.fields import check, option
from digipath_ray.config.member import CLASSES, TUMOR

MOST_CLASSES = 256
"""A class is a byte in a batch."""


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """Classes of a fit; without ``names`` it is of (other, tumor), as the paper's."""

    names: tuple[str, ...] = option(
        (),
        "classes to tell apart, in the order of a network's channels; the first is "
        "what is drawn as no other (default: other and tumor alone)",
        flag="class_names",
    )
    drawn: tuple[str, ...] = option(
        (),
        "which group, class or layer of annotations is which class, NAME=CLASS, "
        "comma-separated; a class's own name need not be said",
        flag="class_drawn",
    )
    values: tuple[str, ...] = option(
        (),
        "mask images: which value is which class, CLASS=VALUE, comma-separated, e.g. "
        "tumor=1,stroma=2; a value that is not named is refused, 0 is the first class",
        flag="class_values",
    )
    tumor: tuple[str, ...] = option(
        (TUMOR,),
        "which of the classes are tumor; where outlines overlap, the later of the "
        "classes counts",
        flag="tumor_classes",
    )
    whole: tuple[str, ...] = option(
        (),
        "which of the classes the whole tumor consists of, for the tumor burden",
        flag="whole_classes",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        names = self.names
        if not names:
            for field in ("drawn", "values", "whole"):
                value = getattr(self, field)
                want = "needs [classes] names: name the classes, the first is the rest"
                check(not value, f"classes.{field}", value, want)
            check(self.tumor == (TUMOR,), "classes.tumor", self.tumor, "needs names")
            return
        ok = 2 <= len(set(names)) == len(names) <= MOST_CLASSES and all(
            name.strip() == name and name.isprintable() and name for name in names
        )
        want = f"2 to {MOST_CLASSES} names, each once, without spaces around them"
        check(ok, "classes.names", names, want)
        folded = {unicodedata.normalize("NFC", name).casefold() for name in names}
        want = (
            "names that differ by more than case, or by how an accent is stored: "
            "annotations are read without it"
        )
        check(len(folded) == len(names), "classes.names", names, want)
        for field in ("tumor", "whole"):
            value = getattr(self, field)
            ok = len(set(value)) == len(value) and set(value) <= {*names[1:]}
            want = f"of {', '.join(names[1:])} (the first class is what is not drawn)"
            check(ok, f"classes.{field}", value, want)
        check(len(self.tumor) > 0, "classes.tumor", self.tumor, "at least one")
        self._check_pairs()

    def _check_pairs(self) -> None:
        drawn = [text.rpartition("=") for text in self.drawn]
        values = [text.rpartition("=") for text in self.values]
        for name, sign, of in drawn:
            ok = bool(name.strip() and sign) and of.strip() in self.names
            text, want = f"{name}{sign}{of}", f"NAME=CLASS, of {', '.join(self.names)}"
            check(ok, "classes.drawn", text, want)
            own = {name.casefold(): name for name in self.names}
            same = own.get(name.strip().casefold(), of.strip())
            want = f"{same} is a class itself: rename one of them"
            check(same == of.strip(), "classes.drawn", text, want)
        for name, sign, value in values:
            ok = bool(sign) and name.strip() in self.names and _is_whole(value)
            text, want = f"{name}{sign}{value}", "CLASS=VALUE, e.g. tumor=1"
            check(ok, "classes.values", text, want)
        for field, keys in (
            ("drawn", [name.strip().casefold() for name, _, _ in drawn]),
            ("values", [float(value) for _, _, value in values]),
        ):
            ok = len(set(keys)) == len(keys)
            check(ok, f"classes.{field}", getattr(self, field), "each once")

    @property
    def several(self) -> bool:
        """Whether there are more than (other, tumor)."""
        return len(self.names) > 2

    @property
    def of_networks(self) -> tuple[str, ...]:
        """What networks answer with: the names, or (other, tumor)."""
        return self.names or CLASSES

    @property
    def by_drawn(self) -> dict[str, str]:
        """Name in annotations, in small letters -> class."""
        own = {name.casefold(): name for name in self.names}
        pairs = (text.rpartition("=") for text in self.drawn)
        return own | {name.strip().casefold(): of.strip() for name, _, of in pairs}

    @property
    def by_value(self) -> dict[float, str]:
        """Value of a mask image -> class."""
        pairs = (text.rpartition("=") for text in self.values)
        return {float(value): name.strip() for name, _, value in pairs}

    def number(self, name: str) -> int:
        """The channel of a class."""
        return self.of_networks.index(name)

    @property
    def tumor_numbers(self) -> tuple[int, ...]:
        """The channels that are tumor."""
        return tuple(map(self.number, self.tumor))


def _is_whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except (ValueError, OverflowError):
        return False
