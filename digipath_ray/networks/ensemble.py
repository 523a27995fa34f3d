"""Members' predictions combined into a heatmap's channels: means and uncertainties.

Both uncertainties are population variances of tumor posteriors. What was not estimated
is absent, never 0. In a cascade not every member has seen every patch: a patch's means
and variances are those of the members that have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.run import ESTIMATED, RunConfig

Bools = NDArray[np.bool_]
Maps = NDArray[np.float32]
"""One number per heatmap px of n patches: [n, h, w], of m members [m, n, h, w]."""


class PatchMaps(NamedTuple):
    """What one member says of n patches.

    Attributes:
        mean: [n, h, w], its posterior, mean over the test-time augmentations.
        variance: [n, h, w], its variance over them; None without augmentation.
        classes: [g, n, h, w], the same mean of each group of classes that the heatmap
            has a channel of; None without such channels.
    """

    mean: Maps
    variance: Maps | None
    classes: Maps | None


class MemberError(ValueError):
    """A member's prediction is missing, or is no probability."""


def combine(
    means: Mapping[str, Maps],
    aleatorics: Mapping[str, Maps] | None,
    *,
    members: Sequence[str],
    keep_members: bool,
    seen: Bools | None = None,
) -> dict[str, Maps]:
    """The channels [n, h, w] of a chunk's patches.

    Args:
        means: each member's posterior, mean over its test-time augmentations.
        aleatorics: each member's variance over them (eq. 4), None without them.
        members: names of all members that must be there.
        keep_members: also return each member's mean as ``member:<name>``.
        seen: [m, n], the patches that each member has seen, the first all; None: all.

    Returns:
        ``probability``, the mean of the members' means; ``aleatoric``, the mean of
        theirs, unless None; ``epistemic``, the population variance of their means
        (eq. 5), unless there is one member only. With ``seen``, of a patch that one
        member has seen ``epistemic`` is 0 and ``estimated`` 0, else 1.

    Raises:
        MemberError: a map is missing, of another shape than the others', NaN,
            infinite or outside 0..1; the message names the member.
    """
    stack = _checked(means, members, "probability", seen)
    where = True if seen is None else seen[:, :, None, None]
    channels = {"probability": stack.mean(axis=0, where=where)}
    if aleatorics is not None:
        variances = _checked(aleatorics, members, "variance", seen)
        channels["aleatoric"] = variances.mean(axis=0, where=where)
    if len(members) > 1:
        # Two passes: E[p^2] - E[p]^2 in float32 can come out below zero.
        squares = np.square(stack - channels["probability"])
        channels["epistemic"] = squares.mean(axis=0, where=where)
        if seen is not None:
            two = (seen.sum(axis=0) >= 2)[:, None, None]
            channels[ESTIMATED] = np.broadcast_to(two, stack.shape[1:]).astype("f4")
    if keep_members:
        for name, posterior in zip(members, stack, strict=True):
            channels[f"member:{name}"] = posterior
    return channels


def _checked(
    maps: Mapping[str, Maps], members: Sequence[str], what: str, seen: Bools | None
) -> Maps:
    """Maps [m, n, h, w] in the order of the members, checked to be probabilities."""
    for i, name in enumerate(members):
        if name not in maps:
            raise MemberError(f"member {name} gave no {what}")
        found, first = maps[name], maps[members[0]]
        if found.shape != first.shape:
            raise MemberError(
                f"member {name} gave a {what} of shape {found.shape}, "
                f"member {members[0]} of {first.shape}"
            )
        check_probabilities(name, what, found if seen is None else found[seen[i]])
    return np.stack([np.asarray(maps[name], np.float32) for name in members])


def check_probabilities(member: str, what: str, found: Maps) -> None:
    """Refuse values that are no probabilities.

    Raises:
        MemberError: names the member and what they were to be.
    """
    if not np.isfinite(found).all():
        bad = np.count_nonzero(~np.isfinite(found))
        raise MemberError(
            f"member {member}: {bad} of {found.size} values of its {what} are NaN "
            "or infinite; in half precision try --precision float32"
        )
    if found.size and not 0 <= found.min() <= found.max() <= 1:
        raise MemberError(
            f"member {member}: its {what} runs from {found.min():.4g} to "
            f"{found.max():.4g}, outside 0..1"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberMaps:
    """Maps of a chunk's patches by several members, in the members' order.

    Attributes:
        means: [m, n, h, w], each member's posterior, mean over its augmentations.
        variances: [m, n, h, w], its variance over them; None without augmentation.
        predicted: [m, n], whether it predicted the patch, or its map is what it said of
            the patches around (adaptive overlap).
        seen: [m, n], whether it has seen the patch's pixels, in this patch or in those
            around; its map is 0 elsewhere (cascade).
        classes: [g, n, h, w], of each channel that is a sum of classes the members'
            posteriors, added up: memory for one member, whatever their number. None
            without such channels.
    """

    means: Maps
    variances: Maps | None
    predicted: Bools
    seen: Bools
    classes: Maps | None = None

    def followed_by(self, other: "MemberMaps") -> "MemberMaps":
        """These members' maps and then the others'."""
        variances = None
        if self.variances is not None and other.variances is not None:
            variances = np.concatenate([self.variances, other.variances])
        classes = None
        if self.classes is not None and other.classes is not None:
            classes = self.classes + other.classes
        return MemberMaps(
            means=np.concatenate([self.means, other.means]),
            variances=variances,
            predicted=np.concatenate([self.predicted, other.predicted]),
            seen=np.concatenate([self.seen, other.seen]),
            classes=classes,
        )


def combine_members(maps: MemberMaps, config: RunConfig) -> dict[str, Maps]:
    """The heatmap's channels [n, h, w] from the maps of all members of a run.

    Those of classes are means over the members that have seen the patch, as the
    probability is. NaN over patches that no member predicted: they add nothing to those
    around.

    Raises:
        MemberError: a member's map is missing or is no probability.
    """
    names = [m.name for m in config.members]
    variances = maps.variances
    channels = combine(
        dict(zip(names, maps.means, strict=False)),
        None if variances is None else dict(zip(names, variances, strict=False)),
        members=names,
        keep_members=config.ensemble.keep_members,
        seen=maps.seen if config.ensemble.cascade else None,
    )
    if maps.classes is not None:
        count = maps.seen.sum(axis=0).astype(np.float32)[:, None, None]
        for name, total in zip(config.class_channels, maps.classes, strict=True):
            channels[name] = total / count
    skipped = ~maps.predicted.any(axis=0)
    for values in channels.values():
        values[skipped] = np.nan
    return channels
