"""What a run does about a slide's stains, decided once, when the slide is prepared."""

from dataclasses import dataclass
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.networks.references import reference_of
from digipath_ray.slide.open import Slide
from digipath_ray.stain.estimate import StainError, StainEstimate
from digipath_ray.stain.fields import slide_stains
from digipath_ray.stain.normalize import check_alike
from digipath_ray.tissue.find import Tissue

FLAG = "stains not normalized"


@dataclass(frozen=True, kw_only=True)
class SlideStains:
    """The stains of a slide of which normalization was asked for.

    Attributes:
        method: of the estimate.
        found: None if they cannot be told.
        note: why the slide is left as it is; None if it is normalized.
    """

    method: str
    found: StainEstimate | None
    note: str | None

    @property
    def usable(self) -> StainEstimate | None:
        """The stains to normalize from; None if the slide is left as it is."""
        return self.found if self.note is None else None

    def columns(self) -> dict[str, Any]:
        """The columns of SLIDES that hold them."""
        values = None if self.found is None else self.found.values
        return {
            "stain": self.method,
            "stain_values": values,
            "stain_note": self.note,
        }


def find_stains(slide: Slide, tissue: Tissue, config: RunConfig) -> SlideStains | None:
    """The stains of an open slide; None, with nothing read, if they are not asked for.

    They must be like the reference of each member.

    Raises:
        SlideError: the slide is damaged where it is sampled.
        ValueError: a member has no reference.
    """
    method = config.slide.stain
    if method == "none":
        return None
    try:
        found = slide_stains(slide, tissue, method)
    except StainError as e:
        return SlideStains(method=method, found=None, note=str(e))
    note = None
    for member in config.members:
        try:
            check_alike(found, reference_of(member, method))
        except StainError as e:
            note = f"{e} (of member {member.name})"
            break
    return SlideStains(method=method, found=found, note=note)
