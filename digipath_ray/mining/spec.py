"""What mining looks for, as frozen dataclasses that the command's options are made of.

Nothing heavy is imported here: the command line reads it whatever is asked of it.
"""
# ruff: noqa: RUF009 - option is dataclasses.field with a help text

from dataclasses import dataclass
from typing import Literal

from digipath_ray.config.run import check, check_choice, option

Uncertainty = Literal["epistemic", "aleatoric", "both"]
"""A heatmap's channel, or the sum of both: they are variances."""


@dataclass(frozen=True, kw_only=True)
class MiningSpec:
    """What counts as hard; the defaults are the released code's for CAMELYON.

    False alarms count where there is hardly any tumor: the border of a lesion is
    nobody's exact word.
    """

    fit_patch_px: int = option(
        256, "side of a patch, model px; as the fit will have it"
    )
    dice: float = option(0.9, "a patch with tumor is hard with a Dice below this")
    dice_at: float = option(0.45, "probability from which a pixel counts for the Dice")
    alarm_at: float = option(0.4, "a normal pixel of this probability is a false alarm")
    max_tumor: float = option(
        0.05,
        "a patch with a false alarm is hard if less of it is tumor (fraction)",
    )
    per_slide: int = option(500, "hard patches of each kind kept of a slide, at most")

    def __post_init__(self) -> None:
        """Check the fields."""
        check(self.fit_patch_px >= 2, "fit_patch_px", self.fit_patch_px, "at least 2")
        check(self.per_slide >= 1, "per_slide", self.per_slide, "at least 1")
        for name in ("dice", "dice_at", "alarm_at", "max_tumor"):
            value = getattr(self, name)
            check(0 < value <= 1, name, value, "more than 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class RegionSpec:
    """Which uncertain regions are exported."""

    map: Uncertainty = option("epistemic", "what says how uncertain; both: their sum")
    top: int = option(5, "regions of a slide, at most")
    region_um: float = option(250.0, "side of a region, um")

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice("map", self.map, Uncertainty)
        check(self.top >= 1, "top", self.top, "at least 1")
        check(self.region_um >= 1, "region_um", self.region_um, "at least 1")
