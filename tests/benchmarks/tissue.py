"""How much tissue each method finds, and how much glass it takes for tissue.

    python -m tests.benchmarks.tissue [FOLDER OF GLAS]

On the thumbnails of tests/tissue_scenes.py, drawn or of real colon, by kind: the least
sensitivity, the largest share of glass, and on how many of them both hold (0.98 and
0.02). "paper" is Otsu's threshold alone, the default before the threshold was held to
the glass.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from digipath_ray.config.run import TissueMethod, TissueSpec
from digipath_ray.tissue.find import find_tissue
from tests.tissue_scenes import Scene, agreement, real_scenes, scenes

METHODS: tuple[TissueMethod, ...] = ("paper", "otsu", "camelyon", "paip")


def kind(scene: Scene) -> str:
    """What the scene tries."""
    first, _, rest = scene.name.partition(" with ")
    if scene.hole is not None:
        return f"real {first.partition(', on ')[0]}"
    if rest:
        return f"pale tissue with {rest.rpartition(' on ')[0]}"
    return first.partition(",")[0].partition(" ")[0]


def row(drawn: Sequence[Scene], method: TissueMethod) -> str:
    """Least sensitivity, largest false glass, how many hold."""
    spec = TissueSpec(tissue=method)
    found = [
        agreement(find_tissue(s.rgb, mpp_x=8, mpp_y=8, spec=spec).mask.array, s)
        for s in drawn
    ]
    held = sum(t >= 0.98 and g <= 0.02 for t, g in found)
    least, most = min(t for t, _ in found), max(g for _, g in found)
    return f"{least:.2f} / {most:.2f} ({held} of {len(found)})"


def main() -> None:
    kinds: dict[str, list[Scene]] = defaultdict(list)
    real = (real_scenes(Path(folder)) for folder in sys.argv[1:])
    for scene in chain(scenes(), *real):
        kinds[kind(scene)].append(scene)
    print("| thumbnails |", " | ".join(METHODS), "|")
    print("|---|" + "---|" * len(METHODS))
    for name, drawn in kinds.items():
        print(f"| {name} |", " | ".join(row(drawn, m) for m in METHODS), "|")


if __name__ == "__main__":
    main()
