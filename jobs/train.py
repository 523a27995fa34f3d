r"""Fit an ensemble on an annotated cohort: weights, model cards, learning curves.

    python jobs/train.py cohort.csv --config jobs/camelyon17.toml --out FIT
    ray job submit --working-dir jobs -- python train.py s3://BUCKET/cohort.csv \
        --config camelyon17.toml --out s3://BUCKET/fit

On a cluster slides and fit lie in a bucket or on a disk that all nodes share.
Takes every option of ``digipath train``. Started again it goes on from the last
checkpoint. Exit status: 0 all fitted, 1 a slide could not be read, 2 usage, 3 a fit
ended early and the others are done.

``ray job submit`` itself exits with 1 for any of these but 0, and with 0 if the job
was stopped: ask ``ray job status`` or ``digipath status``. It uploads --working-dir,
at most 100 MiB.
"""

from digipath_ray.cli import main

if __name__ == "__main__":
    main("train")
