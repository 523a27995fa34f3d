#!/usr/bin/env bash
# shapely's make_valid turns a hole that lies outside its outline into area.
#
# Library:  shapely 2.1.2 (GEOS as in its wheel)
# Behavior: make_valid(polygon, method="structure") of a polygon with a hole wholly
#           outside its shell returns a shell AND the hole as a second polygon: what was
#           to be cut out is added. The default method "linework" does the same.
# Matters:  GeoJSON of hand-drawn tumor holds such rings, when an exclusion is assigned
#           to the wrong outline. Repaired as every tutorial advises, an exclusion in
#           normal tissue becomes tumor, and the area grows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet shapely==2.1.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import shapely
from shapely.geometry import Polygon, box

tumor, exclusion = box(0, 0, 10, 10), box(20, 0, 25, 5)
drawn = Polygon(tumor.exterior, [exclusion.exterior])
areas = {
    "structure": shapely.make_valid(drawn, method="structure", keep_collapsed=False).area,
    "linework": shapely.make_valid(drawn).area,
}
print(f"shapely {shapely.__version__}, GEOS {shapely.geos_version_string}: "
      f"outline {tumor.area}, made valid {areas}")
sys.exit(any(area <= tumor.area for area in areas.values()))
PYTHON
