"""Fixtures that several test modules share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Threads that share a small batch wait for each other, the more so beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As digipath_ray.distributed.cluster does: idle workers stay.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides beside the project, which is never committed."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI runs the tests on real data, but {folder} is absent")
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A small Ray of this machine, for all tests that need one."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=300 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
