"""Fit an ensemble on an annotated cohort: weights, model cards, learning curves.

    python jobs/train.py /data/cohort.csv --config jobs/camelyon17.toml --out /data/fit

On a cluster (the package installed on every node, paths that every node sees):

    ray job submit --working-dir jobs -- \
        python train.py /data/cohort.csv --config camelyon17.toml --out /data/fit

Started again it goes on from the last checkpoint.
"""

import sys

from digipath_ray.cli.app import run_app


def main() -> int:
    """Run ``digipath train`` with this script's arguments; its exit code."""
    return run_app(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
