"""Maps of artifacts as indexed PNG files, which any program shows in their colors."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from digipath_ray.artifacts.kinds import KINDS, ArtifactMap
from digipath_ray.slide.image import DAMAGED, check_whole, no_pixel_limit
from digipath_ray.storage.files import open_file
from digipath_ray.tissue.mask import MAX_MASK_PX, UM_PER_INCH

GLASS = (255, 255, 255)
"""Color of index 0."""
LEGEND = "; ".join(f"{k.index} {k.name}: {k.meaning}" for k in KINDS)
"""In the file's text chunk ``Legend``."""


def write_artifacts(path: str | Path, found: ArtifactMap) -> None:
    """Write an indexed PNG with the kinds' colors, a legend, and its physical size."""
    image = Image.fromarray(found.indexes, "P")
    palette = [GLASS, *(kind.color for kind in KINDS)]
    image.putpalette([value for color in palette for value in color])
    legend = PngInfo()
    legend.add_text("Legend", LEGEND)
    # PNG stores whole px per meter: error 0.003 % at 64 um/px, none at 8.
    dpi = (UM_PER_INCH / found.mpp_x, UM_PER_INCH / found.mpp_y)
    image.save(path, format="PNG", dpi=dpi, pnginfo=legend)


def read_artifacts(path: str | Path) -> ArtifactMap:
    """Read what :func:`write_artifacts` wrote.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or no such map.
    """
    try:
        with no_pixel_limit(), open_file(path) as file, Image.open(file) as image:
            if image.width * image.height > MAX_MASK_PX:
                raise ValueError(f"{path}: too large for a map of artifacts")
            check_whole(image)
            dpi = image.info.get("dpi")
            if image.mode != "P" or dpi is None:
                raise ValueError(
                    f"{path}: no map of artifacts: those are indexed, with a physical "
                    "size"
                )
            indexes = np.asarray(image)
    except FileNotFoundError:
        raise
    except DAMAGED as e:
        raise ValueError(f"{path}: cannot read the image: {e}") from e
    mpp_x, mpp_y = (UM_PER_INCH / d for d in dpi)
    try:
        return ArtifactMap(indexes=indexes, mpp_x=mpp_x, mpp_y=mpp_y)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
