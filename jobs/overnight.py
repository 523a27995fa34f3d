"""A whole cohort overnight: tissue, patches, heatmaps, outcomes, the report.

    python jobs/overnight.py SLIDES... --out RUN --preset camelyon17 --weights DIR
    ray job submit --working-dir . -- python jobs/overnight.py SLIDES... --out RUN ...

Takes every option of ``digipath run``. Submitted again after a crash, it does only what
is missing. Exit status: 0 all done, 1 a slide failed and the others are done, 2 usage.
"""

import sys

from digipath_ray.cli import run_app

if __name__ == "__main__":
    sys.exit(run_app(["run", *sys.argv[1:]]))
