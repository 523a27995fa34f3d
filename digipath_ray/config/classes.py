"""Channels of a heatmap that are sums of a network's classes.

``class:NAME`` is one class, kept with ``--keep-classes``; ``whole`` is the whole tumor,
where members name the classes that it consists of.
"""

from collections.abc import Sequence

from digipath_ray.config.fields import check
from digipath_ray.config.member import MemberSpec

CLASS = "class:"
"""Before the name of a class in the name of its channel."""
WHOLE = "whole"
"""Channel of the whole tumor's probability."""
NO_HULL = (
    "outcome.refine_hull: the networks know the whole tumor (whole_classes in their "
    "cards), so there is no hull to refine: leave out --refine-hull, or give every "
    "member whole_classes = [] in its [[members]] and predict again"
)
MOST_LETTERS = 64
"""Of the name of a class that is kept."""
RESERVED = set('/\\?#%;"')
"""What file names, addresses and lists in tables give another meaning."""


def class_channels(
    members: Sequence[MemberSpec], *, keep_classes: bool
) -> tuple[str, ...]:
    """Names of the channels that are sums of classes, in the heatmap's order.

    Args:
        members: of the run, checked by :func:`check_classes`.
        keep_classes: whether each class has a channel.
    """
    whole = [WHOLE] if members and members[0].whole_classes else []
    kept = members[0].classes if keep_classes and members else ()
    return (*whole, *(f"{CLASS}{name}" for name in kept))


def summed_classes(channel: str, member: MemberSpec) -> tuple[int, ...]:
    """Which of a member's classes a channel of :func:`class_channels` is the sum of."""
    named = member.whole_classes
    if channel != WHOLE:
        named = (channel.removeprefix(CLASS),)
    return tuple(member.classes.index(name) for name in named)


def kept_classes(channels: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes that are among a heatmap's channels, in their order."""
    return tuple(n.removeprefix(CLASS) for n in channels if n.startswith(CLASS))


def check_classes(members: Sequence[MemberSpec], *, keep_classes: bool) -> None:
    """Refuse members whose classes cannot be averaged.

    Args:
        members: of the run.
        keep_classes: whether each class is to have a channel.

    Raises:
        ValueError: names the members, what they know, and what to do.
    """
    without = [m.name for m in members if not m.whole_classes]
    if members and 0 < len(without) < len(members):
        (first, *_) = (m for m in members if m.whole_classes)
        raise ValueError(
            f"member {without[0]} names no whole_classes, but {first.name} does "
            f"({', '.join(first.whole_classes)}): the whole tumor is the mean of all "
            "members. Name them in all cards, or give every member whole_classes = [] "
            "in its [[members]]: then it is the hull of the viable tumor"
        )
    if keep_classes and members:
        _check_kept(members)


def _check_kept(members: Sequence[MemberSpec]) -> None:
    """Refuse classes that --keep-classes cannot keep."""
    first = members[0]
    for member in members:
        name = f"member {member.name}: activation"
        want = (
            "softmax with keep_classes: of independent probabilities a px may be of "
            "several classes or of none, so none has an area. Leave out --keep-classes"
        )
        check(member.activation == "softmax", name, member.activation, want)
        if member.classes != first.classes:
            raise ValueError(
                f"ensemble.keep_classes: member {first.name} knows the classes "
                f"{', '.join(first.classes)}, member {member.name} "
                f"{', '.join(member.classes)}: all must name the same classes in the "
                "same order. Leave out --keep-classes, or run those with other classes "
                "apart (where only the names differ, mend them in a card)"
            )
    folded = {name.casefold() for name in first.classes}
    want = "names that differ by more than case: tables and files are read without it"
    ok = len(folded) == len(first.classes)
    check(ok, f"member {first.name}: classes", first.classes, want)
    for name in first.classes:
        ok = name.strip() == name and 0 < len(name) <= MOST_LETTERS
        ok = ok and name.isprintable() and not RESERVED & {*name}
        want = (
            f"with keep_classes a name of 1 to {MOST_LETTERS} letters, without "
            f"{' '.join(sorted(RESERVED))}: mend it in the card"
        )
        check(ok, f"member {first.name}: classes", name, want)
