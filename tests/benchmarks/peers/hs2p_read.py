"""hs2p's reader, on which slide2vec stands: patches of a slide, cut from large regions.

Run by :mod:`tests.benchmarks.reading` with a task as JSON on standard input; prints CPU
seconds, or with "sum" the sum of all pixels.
"""

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
from hs2p.wsi.streaming import iter_tile_arrays_from_result


def main() -> None:
    task = json.load(sys.stdin)
    corners = np.array(task["corners"])
    side, stride = task["patch_px"], task["stride_px"]
    tiles = SimpleNamespace(
        image_path=task["slide"],
        backend=task["backend"],
        base_spacing_um=task["mpp"],
        level_downsamples=[1.0],
        read_level=0,
        read_tile_size_px=side,
        tile_size_lv0=side,
        step_px_lv0=stride,
        overlap=1 - stride / side,
        x=corners[:, 0],
        y=corners[:, 1],
    )
    started, total, count = time.process_time(), 0, 0
    for patch in iter_tile_arrays_from_result(result=tiles):
        assert patch.shape == (side, side, 3), patch.shape
        own = np.ascontiguousarray(patch)
        total += int(own.sum(dtype=np.int64)) if task["sum"] else 0
        count += 1
    assert count == len(corners)
    print(total if task["sum"] else time.process_time() - started)


main()
