"""Predict and stitch a run that ``prepare`` has made, by the config it was made with.

    python jobs/segment.py RUN
    ray job submit --working-dir . -- python jobs/segment.py RUN

Exit status: 0 all done, 1 a slide failed and the others are done, 2 usage, 3 ended
early: run it again.

``ray job submit`` itself exits with 1 for any of these but 0, and with 0 if the job
was stopped: ask ``ray job status`` or ``digipath status``. It uploads --working-dir,
at most 100 MiB.
"""

from digipath_ray.cli import main

if __name__ == "__main__":
    main("segment")
