"""Maps drawn as text, for tests of what is measured on them."""

import numpy as np
from numpy.typing import NDArray

from digipath_ray.heatmap.heatmap import Heatmap

P_OF = {".": 0.0, "o": 0.5, "x": 0.9, "#": 0.95, "@": 1.0}


def heatmap_of(
    probability: NDArray[np.floating], *, mpp_x: float = 8.0, mpp_y: float = 8.0
) -> Heatmap:
    """A map that was predicted everywhere."""
    return Heatmap(
        channels=("probability",),
        data=probability[None].astype(np.float32),
        weight=np.ones(probability.shape, np.float32),
        mpp_x=mpp_x,
        mpp_y=mpp_y,
    )


def drawn(text: str, *, mpp_x: float = 8.0, mpp_y: float = 8.0) -> Heatmap:
    """A row per line: . is 0, o 0.5, x 0.9, # 0.95, @ 1."""
    values = [[P_OF[c] for c in line] for line in text.split()]
    return heatmap_of(np.array(values), mpp_x=mpp_x, mpp_y=mpp_y)


NUMPY_TURNS = {
    "identity": (lambda a: a, lambda a: a),
    "rot90": (lambda a: np.rot90(a, 1, (-2, -1)), lambda a: np.rot90(a, 3, (-2, -1))),
    "rot180": (lambda a: a[..., ::-1, ::-1], lambda a: a[..., ::-1, ::-1]),
    "rot270": (lambda a: np.rot90(a, 3, (-2, -1)), lambda a: np.rot90(a, 1, (-2, -1))),
    "hflip": (lambda a: a[..., ::-1], lambda a: a[..., ::-1]),
    "vflip": (lambda a: a[..., ::-1, :], lambda a: a[..., ::-1, :]),
}
