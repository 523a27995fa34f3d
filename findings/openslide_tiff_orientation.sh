#!/usr/bin/env bash
# OpenSlide turns each tile of a rotated TIFF by itself, and so makes a mosaic.
#
# Library:  openslide-bin 4.0.1.2 (openslide-python 1.4.7), Pillow 12.3.0
# Behavior: a tiled TIFF with Orientation 3 (turned by half) is read with every tile
#           turned in its own place: the first tile of the file stays the first, with
#           its pixels upside down. Pillow turns the picture as a whole, tifffile gives
#           the stored pixels. No error, no warning, and the size is right.
# Matters:  slides exported by photo software carry the tag. Tissue is still found in
#           the mosaic, patches look like tissue, and only every edge between two tiles
#           is wrong: heatmaps come out without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openslide-python==1.4.7 openslide-bin==4.0.1.2 \
    tifffile==2026.3.3 numpy==2.4.6 pillow==12.3.0
"$folder/venv/bin/python" - "$folder/turned.tif" <<'PYTHON'
import sys

import numpy as np
import openslide
import tifffile
from PIL import Image, ImageOps

path, side = sys.argv[1], 64
rows, cols = np.indices((2 * side, 2 * side))
stored = np.stack([rows * 2, cols * 2, rows * 0], axis=-1).astype(np.uint8)
tifffile.imwrite(
    path, stored, tile=(side, side), photometric="rgb", compression="zlib",
    extratags=[(274, "H", 1, 3, True)],
)
with openslide.OpenSlide(path) as slide:
    seen = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
with Image.open(path) as image:
    whole = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
turned = stored[::-1, ::-1]
mosaic = np.empty_like(stored)
for y in (0, side):
    for x in (0, side):
        tile = stored[y : y + side, x : x + side]
        mosaic[y : y + side, x : x + side] = tile[::-1, ::-1]
print("OpenSlide", openslide.__library_version__,
      "| turned as a whole:", np.array_equal(seen, turned),
      "| each tile by itself:", np.array_equal(seen, mosaic),
      "| Pillow turns the whole:", np.array_equal(whole, turned))
sys.exit(not (np.array_equal(seen, mosaic) and np.array_equal(whole, turned)))
PYTHON
