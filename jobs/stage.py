"""Metastasis types and pN stages of a finished run, from its heatmaps alone.

    python jobs/stage.py RUN --model MODEL.skops
    ray job submit --working-dir . -- python jobs/stage.py RUN

Takes every option of ``digipath stage``. Needs no GPU: one CPU task per slide. Exit
status: 0 all done, 1 a slide could not be measured, 2 usage.

``ray job submit`` itself exits with 1 for any of these but 0, and with 0 if the job
was stopped: ask ``ray job status`` or ``digipath status``. It uploads --working-dir,
at most 100 MiB.
"""

from digipath_ray.cli import main

if __name__ == "__main__":
    main("stage")
