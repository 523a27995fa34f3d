"""Tumor burden of a finished run, from its heatmaps alone.

    python jobs/burden.py RUN --refine-hull
    ray job submit --working-dir . -- python jobs/burden.py RUN

Takes every option of ``digipath burden``. Needs no GPU: one CPU task per slide. Exit
status: 0 all done, 1 a slide could not be measured, 2 usage.
"""

import sys

from digipath_ray.cli import run_app

if __name__ == "__main__":
    sys.exit(run_app(["burden", *sys.argv[1:]]))
