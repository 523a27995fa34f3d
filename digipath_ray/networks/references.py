"""The stains that slides are brought to: of a member's card, or published ones."""

from collections.abc import Mapping
from dataclasses import replace

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
