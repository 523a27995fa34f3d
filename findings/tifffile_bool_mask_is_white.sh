#!/usr/bin/env bash
# A mask of bools that tifffile writes says that false is white.
#
# Library:  tifffile 2026.3.3, Pillow 12.3.0
# Behavior: tifffile.imwrite(path, mask) of a bool array chooses PhotometricInterpretation
#           MINISWHITE (0 is white). tifffile itself ignores the tag when it reads, so a
#           round trip looks right; readers that honor it (Pillow, ImageJ, QuPath) show
#           the inverse. A mask of uint8 written in the same way is MINISBLACK.
# Matters:  a tumor mask written as bool in one tool and read in another is inverted:
#           all but the tumor is tumor. Areas near one half hide it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tifffile==2026.3.3 numpy==2.4.6 pillow==12.3.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import tifffile
from PIL import Image

mask = np.zeros((64, 64), bool)
mask[8:16, 8:16] = True
shares = {}
for name, array in (("bool", mask), ("uint8", mask.astype(np.uint8) * 255)):
    path = f"{sys.argv[1]}/{name}.tif"
    tifffile.imwrite(path, array)
    with tifffile.TiffFile(path) as tiff, Image.open(path) as image:
        page = tiff.pages[0]
        own = float((page.asarray() > 0).mean())
        shares[name] = float((np.asarray(image) > 0).mean())
        print(name, page.photometric.name, f"tifffile {own:.3f}, Pillow {shares[name]:.3f}")
print(f"true share {mask.mean():.3f}")
sys.exit(not (shares["bool"] > 0.9 and shares["uint8"] < 0.1))
PYTHON
