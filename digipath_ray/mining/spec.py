"""Mining settings as frozen dataclasses, from which the CLI options are built.

Imports nothing heavy: every command of the CLI loads this module.
"""
# ruff: noqa: RUF009 - option is dataclasses.field with a help text

from dataclasses import dataclass
from typing import Literal

from digipath_ray.config.fields import check, check_choice, option

Uncertainty = Literal["epistemic", "aleatoric", "both"]
"""A heatmap channel, or the sum of both, which are variances."""


@dataclass(frozen=True, kw_only=True)
class MiningSpec:
    """Criteria of hard patches; defaults of the released code for CAMELYON.

    False alarms count only where there is hardly any tumor, since lesion borders are
    annotated imprecisely.
    """

    fit_patch_px: int = option(256, "side of a patch, model px; as in the later fit")
    dice: float = option(0.9, "a patch with tumor is hard if its Dice is below this")
    dice_at: float = option(0.45, "threshold for the Dice, probability")
    alarm_at: float = option(
        0.4, "a normal pixel at or above this probability is a false alarm"
    )
    max_tumor: float = option(
        0.05,
        "a patch with a false alarm is hard if less of it is tumor (fraction)",
    )
    per_slide: int = option(500, "maximum hard patches of each kind per slide")

    def __post_init__(self) -> None:
        """Validate the fields."""
        check(self.fit_patch_px >= 2, "fit_patch_px", self.fit_patch_px, "at least 2")
        check(self.per_slide >= 1, "per_slide", self.per_slide, "at least 1")
        for name in ("dice", "dice_at", "alarm_at", "max_tumor"):
            value = getattr(self, name)
            check(0 < value <= 1, name, value, "more than 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class RegionSpec:
    """Selection of uncertain regions to export."""

    map: Uncertainty = option("epistemic", "uncertainty map to use; both: their sum")
    top: int = option(5, "maximum number of regions per slide")
    region_um: float = option(250.0, "side of a region, um")

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_choice("map", self.map, Uncertainty)
        check(self.top >= 1, "top", self.top, "at least 1")
        check(self.region_um >= 1, "region_um", self.region_um, "at least 1")
