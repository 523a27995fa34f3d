"""Which members were fitted on a slide or its patient, by their model cards.

Scores on such slides are no test of those members; ``distributed/out_of_fold.py``
predicts each slide only by the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.card import ModelCard, card_path, read_card
from digipath_ray.networks.weight_files import weights_file


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What an ensemble's members have seen, by their names."""

    cards: dict[str, ModelCard]

    def seen_by(
        self, slide_id: str, patient_id: str | None, digest: str | None = None
    ) -> tuple[str, ...]:
        """Names of the members that have seen the slide or its patient.

        Args:
            slide_id: the slide.
            patient_id: its patient.
            digest: of its files: they may have had another slide_id in the fit.
        """
        return tuple(
            name
            for name, card in self.cards.items()
            if slide_id in card.training_slides
            or (patient_id is not None and patient_id in card.training_patients)
            or (digest is not None and digest in card.training.get("slides", ()))
        )


def read_exposure(members: Sequence[MemberSpec]) -> Exposure:
    """What the cards of the members' weights say; members without a card saw nothing.

    Raises:
        ValueError: a card cannot be read.
    """
    cards = {}
    for member in members:
        path = weights_file(member.weights)
        if path is not None and card_path(path).is_file():
            cards[member.name] = read_card(path)
    return Exposure(cards=cards)


def overlap_warning(rows: Sequence[SlideRow], exposure: Exposure) -> str | None:
    """What to warn of where members have seen slides of the cohort; None if nothing."""
    seen = [row for row in rows if exposure.seen_by(row.slide_id, row.patient_id)]
    if not seen:
        return None
    return (
        f"{len(seen)} of {len(rows)} slides, or other slides of their patients, were "
        "seen by members while they were fitted: scores on them are no test. "
        "--out-of-fold predicts each slide only by members that have not seen it"
    )
