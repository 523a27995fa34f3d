"""Scores of a prediction against a reference, by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SAME = 1e-12
"""Scores closer than this are the same."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score with its interval.

    Attributes:
        value: of all that was scored.
        low: lower end of the 95 % bootstrap interval; None where there is none.
        high: upper end.
        n: how many slides, images, patients or cases it is made of.
        unit: what was resampled: "patient", "slide", "image" or "case".
        units: how many of those there are.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    units: int


Scores = Mapping[str, Score]
"""By name: kappa, froc, auc, dice, jaccard, jaccard_clipped, burden_score ..."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a prediction comes to.

    Attributes:
        challenge: whose definitions were used.
        scores: of the prediction, of a run its ensemble.
        members: of each member whose maps the run kept.
        notes: what a reader of the scores must know.
    """

    challenge: str
    scores: Scores
    members: Mapping[str, Scores] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The scores by name, then the challenge, the members' scores and the notes."""
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
        """Score -> how many members the ensemble is above, and of how many.

        Members that did not predict all that the ensemble did are left out.
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
