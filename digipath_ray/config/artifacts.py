"""The settings of [artifacts]: what is looked for, and what leaves patches out."""

from dataclasses import dataclass

from digipath_ray.config.fields import check, option
from digipath_ray.schema import ARTIFACTS

ARTIFACTS_MASK_MPP = 16.0
"""Coarsest mask on which folds and rims of bubbles are still more than one px wide."""


@dataclass(frozen=True, kw_only=True)
class ArtifactSpec:
    """Whether artifacts are looked for, and which leave patches out."""

    find: bool = option(
        False,
        "map where tissue is out of focus, folded, or under bubbles, pen or blots; "
        "reads it once at 1 um/px",
        flag="find_artifacts",
    )
    exclude: tuple[str, ...] = option(
        (),
        "kinds whose patches are left out, comma-separated: " + ", ".join(ARTIFACTS),
        flag="exclude_artifacts",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        name = "artifacts.exclude"
        for kind in self.exclude:
            check(kind in ARTIFACTS, name, kind, f"of {', '.join(ARTIFACTS)}")
        ok = len(set(self.exclude)) == len(self.exclude)
        check(ok, name, self.exclude, "name each kind once")
        ok = self.find or not self.exclude
        want = "set find = true in [artifacts], or give --find-artifacts, too"
        check(ok, name, self.exclude, want)
