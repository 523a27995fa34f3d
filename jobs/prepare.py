"""Only find tissue and place patches, to check the masks before predicting.

    python jobs/prepare.py SLIDES... --out RUN --preset camelyon17 --weights DIR
    ray job submit --working-dir . -- python jobs/prepare.py SLIDES... --out RUN ...

Takes every option of ``digipath prepare``. Exit status: 0 all done, 1 a slide failed
and the others are done, 2 usage.

``ray job submit`` itself exits with 1 for any of these but 0, and with 0 if the job
was stopped: ask ``ray job status`` or ``digipath status``. It uploads --working-dir,
at most 100 MiB.
"""

from digipath_ray.cli import main

if __name__ == "__main__":
    main("prepare")
