"""Where a slide's patches lie: on its tissue, less what artifacts leave out."""

from digipath_ray.artifacts.find import find_artifacts
from digipath_ray.artifacts.kinds import KINDS, ArtifactMap
from digipath_ray.artifacts.read import read_detail
from digipath_ray.config.run import RunConfig
from digipath_ray.patches import Cells, Grid, keep_cells
from digipath_ray.slide.open import Pixels, Slide, SlideError
from digipath_ray.tissue.find import Tissue
from digipath_ray.words import listed


def look_for_artifacts(
    slide: Slide, thumbnail: Pixels, tissue: Tissue, config: RunConfig
) -> ArtifactMap | None:
    """The slide's artifacts; None, and nothing is read, unless they are asked for.

    Raises:
        SlideError: the file is damaged.
    """
    if not config.artifacts.find:
        return None
    return find_artifacts(thumbnail, tissue, read_detail(slide, tissue.mask))


def place_patches(
    grid: Grid, tissue: Tissue, found: ArtifactMap | None, config: RunConfig
) -> Cells:
    """Cells [n, 2] of the patches to predict.

    A patch is left out if all of its tissue lies in excluded artifacts. All patches
    over other tissue are kept, so that its values are those without any exclusion.
    """
    exclude = config.artifacts.exclude
    if found is None or not exclude:
        return keep_cells(grid, tissue.sampling)
    trusted = tissue.mask.like(tissue.mask.array & ~found.where(*exclude))
    return keep_cells(grid, trusted.dilated(config.tissue.margin_um))


def no_tissue(config: RunConfig, look_at: str) -> SlideError:
    """What to say of a slide on which no patch was placed."""
    return SlideError(
        f"no tissue of at least {config.tissue.min_tissue_mm2:g} mm2 found",
        f"look at {look_at}; lower --min-saturation or --min-tissue-mm2, give a mask "
        "in the manifest, or --tissue all",
    )


def no_patches(
    config: RunConfig, tissue: Tissue, found: ArtifactMap | None, look_at: str
) -> SlideError:
    """The same, or that artifacts have left all of them out."""
    if found is None or not tissue.mask.array.any():
        return no_tissue(config, look_at)
    shares = found.shares(tissue.mask)
    named = [f"{k.meaning} ({shares[k.name]:.0%})" for k in KINDS if shares[k.name]]
    return SlideError(
        f"no tissue that can be trusted: {listed(named)}",
        f"look at {look_at}; have the slide scanned or cut again, or take kinds out of "
        "[artifacts] exclude",
    )
