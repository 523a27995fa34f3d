"""Predict and stitch a run that ``prepare`` has made, by the config it was made with.

    python jobs/segment.py RUN
    ray job submit --working-dir . -- python jobs/segment.py RUN

Exit status: 0 all done, 1 a slide failed and the others are done, 2 usage, 3 ended
early: run it again.
"""

import sys

from digipath_ray.cli import run_app

if __name__ == "__main__":
    sys.exit(run_app(["segment", *sys.argv[1:]]))
