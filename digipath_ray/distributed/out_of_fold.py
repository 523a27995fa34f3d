"""Which members may predict a slide: none that was fitted on it or its patient."""

from collections.abc import Sequence

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.distributed.attempts import explain
from digipath_ray.networks.seen_slides import overlap_warning, read_exposure
from digipath_ray.run.listeners import RunListener
from digipath_ray.run.record import SlideRecord
from digipath_ray.slide.open import SlideError


def overlap_notes(rows: Sequence[SlideRow], config: RunConfig) -> list[str]:
    """What to warn of where members have seen slides that they predict."""
    if config.ensemble.out_of_fold:
        return []
    warning = overlap_warning(rows, read_exposure(config.members))
    return [] if warning is None else [warning]


def by_members(
    slides: Sequence[SlideRecord], config: RunConfig, listener: RunListener
) -> list[tuple[tuple[MemberSpec, ...], list[SlideRecord]]]:
    """Which members predict which slides: all of them, or out of fold.

    A slide that every member has seen fails.
    """
    if not config.ensemble.out_of_fold:
        return [(config.members, list(slides))]
    parts: dict[tuple[str, ...], list[SlideRecord]] = {}
    for slide in slides:
        unseen = [m.name for m in config.members if m.name not in (slide.seen_by or ())]
        if unseen:
            parts.setdefault(tuple(unseen), []).append(slide)
        else:
            seen = SlideError(
                "every member was fitted on it or its patient",
                "fit a member with it in the validation fold, or leave out "
                "--out-of-fold",
            )
            listener.failed(explain(seen, slide, "predict"))
    return [
        (tuple(m for m in config.members if m.name in names), part)
        for names, part in parts.items()
    ]
