"""Result types: scores of a prediction, by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SAME = 1e-12
"""Scores closer than this are equal."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score with its confidence interval.

    Attributes:
        value: score of all cases.
        low: lower end of the 95 % bootstrap interval; None if not available.
        high: upper end, likewise.
        n: number of slides, images, patients or cases.
        unit: what was resampled: "patient", "slide", "image" or "case".
        units: number of resampled units.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    units: int


Scores = Mapping[str, Score]
"""Scores by name: kappa, froc, auc, dice, jaccard, jaccard_clipped, burden_score ..."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation of a prediction.

    Attributes:
        challenge: challenge whose definitions were used.
        scores: scores of the prediction, for a run of its ensemble.
        members: scores of each member with kept maps.
        notes: notes for the reader.
    """

    challenge: str
    scores: Scores
    members: Mapping[str, Scores] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON of the scores by name, challenge, members' scores and notes."""
        return {
            **{name: asdict(score) for name, score in self.scores.items()},
            "challenge": self.challenge,
            "members": {
                member: {name: asdict(score) for name, score in scores.items()}
                for member, scores in self.members.items()
            },
            "notes": list(self.notes),
        }

    def against_members(self) -> dict[str, tuple[int, int]]:
        """Per score: number of members that the ensemble exceeds, and their total.

        Members with fewer predicted slides than the ensemble are excluded.
        """
        found = {}
        for name, score in self.scores.items():
            others = [
                scores[name].value
                for scores in self.members.values()
                if name in scores and scores[name].n == score.n
            ]
            if others:
                above = sum(score.value > other + SAME for other in others)
                found[name] = (above, len(others))
        return found
