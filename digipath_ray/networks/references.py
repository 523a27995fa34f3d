"""The stains that slides are brought to: of a member's card, or published ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.networks.card import ModelCard
from digipath_ray.stain.estimate import StainEstimate, StainMethod
from digipath_ray.stain.normalize import MACENKO_TARGET


def reference_of(member: MemberSpec, method: StainMethod) -> StainEstimate:
    """The stains that a member's slides are brought to.

    Without any of its own, Macenko's published hematoxylin and eosin.

    Raises:
        ValueError: they are of another method, or not known; says what to do.
    """
    if member.stain_reference is not None:
        try:
            return StainEstimate(method=method, values=member.stain_reference)
        except ValueError as e:
            raise ValueError(f"stain_reference of member {member.name}: {e}") from e
    if method == "macenko":
        return MACENKO_TARGET
    raise ValueError(
        f"slide.stain = {method!r}: the card of member {member.name} states no "
        "reference stains: fit it with this version, give [[members]] "
        "stain_reference (means and deviations of l, alpha, beta), or take "
        "stain = 'macenko', which has a published reference"
    )


def slide_section(
    configured: Mapping[str, Any], cards: Sequence[ModelCard], *, force: bool
) -> dict[str, Any]:
    """The tree's [slide]; a ``stain`` not given is what the networks' slides had.

    Args:
        configured: the section as given.
        cards: of the members that have one.
        force: prefer what is given where a card contradicts it.

    Raises:
        ValueError: a card contradicts what is given, or another card; or only some of
            them say what they take.
    """
    slide = dict(configured)
    said = {c.slide_stain: c.name for c in reversed(cards) if c.slide_stain is not None}
    given = slide.get("stain")
    if not said or (force and given is not None):
        return slide
    if len(said) > 1:
        takes = " and ".join(f"{name} {method!r}" for method, name in said.items())
        raise ValueError(
            f"slide_stain of the members' cards: {takes}: they cannot run together"
        )
    ((method, name),) = said.items()
    if given is not None and given != method:
        raise ValueError(
            f"slide.stain = {given!r}, but the card of member {name} says that its "
            f"slides are brought to {method!r}: leave stain out, or --force"
        )
    silent = [card.name for card in cards if card.slide_stain is None]
    if given is None and silent and method != "none":
        raise ValueError(
            f"the card of member {name} says slide_stain = {method!r}, that of "
            f"{silent[0]} does not say what it takes: --stain {method} if both do"
        )
    return {**slide, "stain": method}


def with_references(config: RunConfig, cards: Mapping[str, ModelCard]) -> RunConfig:
    """The config whose members have the reference stains that it needs.

    Args:
        config: with all its members.
        cards: name of a member -> its card, of those that have one.

    Raises:
        ValueError: as :func:`reference_of`.
    """
    method = config.slide.stain
    if method == "none":
        return config
    members = []
    for member in config.members:
        card = cards.get(member.name)
        own = member.stain_reference
        if own is None and card is not None:
            own = card.stain.get(method)
        member = replace(member, stain_reference=own)
        values = reference_of(member, method).values
        members.append(replace(member, stain_reference=values))
    return replace(config, members=tuple(members))


def has_published_reference(member: MemberSpec) -> bool:
    """Whether a member's slides are brought to Macenko's published stains."""
    return member.stain_reference in (None, MACENKO_TARGET.values)
