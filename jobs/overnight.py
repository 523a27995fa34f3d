r"""A whole cohort overnight: tissue, patches, heatmaps, outcomes, the report.

    python jobs/overnight.py SLIDES... --out RUN --preset camelyon17 --weights DIR
    ray job submit --working-dir jobs -- python overnight.py s3://BUCKET/slides \
        --preset camelyon17 --weights s3://BUCKET/weights --out s3://BUCKET/run

On a cluster the package is installed on every node (``cluster/Dockerfile``), and
slides, weights and run lie in a bucket or on a disk that all nodes share. A head with a
token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH of who submits.

Takes every option of ``digipath run``. Submitted again after a crash, it does only what
is missing. Exit status: 0 all done, 1 a slide failed and the others are done, 2 usage,
3 ended early: submit it again.

``ray job submit`` itself exits with 1 for any of these but 0, and with 0 if the job
was stopped: ask ``ray job status`` or ``digipath status``. It uploads --working-dir,
at most 100 MiB.
"""

from digipath_ray.cli import main

if __name__ == "__main__":
    main("run")
