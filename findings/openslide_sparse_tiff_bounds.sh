#!/usr/bin/env bash
# OpenSlide states bounds for a plain TIFF whose edge tiles are missing.
#
# Library:  openslide-bin 4.0.1.2 (openslide-python 1.4.7)
# Behavior: a tiled TIFF may leave tiles out (byte count 0: sparse). For a file of the
#           generic TIFF driver whose upper tile row is missing, openslide.bounds-y and
#           -height appear, as if it were a scan inside a larger canvas. openslide-bin
#           4.0.0.8 states none for the same file.
# Matters:  programs that move coordinates by openslide.bounds-x and -y, as is right for
#           MRXS, move those of such a TIFF too, although annotations and masks were
#           drawn on the file's own pixels. The same file gives other positions after
#           an upgrade.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openslide-python==1.4.7 openslide-bin==4.0.1.2 \
    tifffile==2026.3.3 numpy==2.4.6 pillow==12.3.0
"$folder/venv/bin/python" - "$folder/sparse.tif" <<'PYTHON'
import sys

import numpy as np
import openslide
import tifffile

path, side = sys.argv[1], 256
pink = np.full((3 * side, 2 * side, 3), (220, 150, 190), np.uint8)
tifffile.imwrite(path, pink, tile=(side, side), photometric="rgb", compression="zlib")
with tifffile.TiffFile(path, mode="r+") as tiff:
    for name in ("TileOffsets", "TileByteCounts"):
        tag = tiff.pages[0].tags[name]
        tag.overwrite((0, 0, *tag.value[2:]))
with openslide.OpenSlide(path) as slide:
    names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
    bounds = [slide.properties.get(f"openslide.{name}") for name in names]
    print("OpenSlide", openslide.__library_version__, slide.dimensions, "vendor",
          slide.properties["openslide.vendor"], "bounds", bounds)
sys.exit(bounds != ["0", "256", "512", "512"])
PYTHON
