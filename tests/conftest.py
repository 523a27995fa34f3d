"""Fixtures that several test modules share."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.buckets import Bucket

ROOT = str(Path(__file__).parents[1])
# Processes that tests start find the package as it stands here, and tests.tiny.
PATHS = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
# Threads that share a small batch wait for each other, the more so beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As digipath_ray.distributed.resources does: idle workers stay.
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
def ray_here(bucket_server: "Bucket") -> Iterator[None]:
    """A small Ray of this machine, for all tests that need one.

    Its workers have the environment of the moment it starts: the bucket's too.
    """
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


@pytest.fixture(scope="session")
def bucket_server() -> Iterator["Bucket"]:
    """An S3 server for all tests, which every process started from now on finds."""
    from tests.buckets import serving

    with serving() as server:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        yield server
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def bucket_url(bucket_server: "Bucket") -> str:
    """A folder of its own for each test; no fault, no request counted yet."""
    from tests.buckets import BUCKET

    bucket_server.faults.clear()
    bucket_server.requests.clear()
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
