"""Fixtures that several test modules share."""

import functools
import io
import logging
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from tests.buckets import Bucket

pytest_plugins = ["tests.browser"]
ROOT = str(Path(__file__).parents[1])
# Processes that tests start find the package as it stands here, and tests.tiny.
PATHS = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
# Threads that share a small batch wait for each other, the more so beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Ray's workers have nice 15 else, and starve beside a browser and the other lane.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As digipath_ray.distributed.resources does: idle workers stay.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
# As digipath_ray.distributed.connect does where it starts Ray.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# Ray Train asks its workers every 2 s else, and small fits wait for that.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")


CLUSTERS = {"test_nodes", "test_training", "test_jobs", "test_overnight"}
"""Modules on Ray that have a lane of their own: they start clusters and jobs."""
LANES = ("clusters", "ray", "browser")


@functools.cache
def lane_of(module: str) -> str:
    """Which modules one process runs: those on Ray share theirs, others are alone.

    Ray and the browser take much memory, and the longest fixtures are of these lanes.
    """
    source = Path(__file__).with_name(f"{module}.py").read_text("utf-8")
    if "pytest.mark.ray" in source:
        return "clusters" if module in CLUSTERS else "ray"
    return "browser" if "pytest.mark.browser" in source else module


class Lanes(LoadScopeScheduling):
    """Gives each process of pytest-xdist a lane; then whoever is done another module.

    It stands in for --dist loadgroup, which needs a part of pytest that 9.1 has not.
    """

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(Path(nodeid.partition("::")[0]).stem)


def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> LoadScopeScheduling | None:
    """Lanes, where plain ``pytest`` runs the tests."""
    return Lanes(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The three longest lanes first: they begin at once."""
    order = {lane: number for number, lane in enumerate(LANES)}
    items.sort(key=lambda item: order.get(lane_of(item.path.stem), len(LANES)))


# A shell that runs the tests in the background has it ignored, and so all they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is no property of the code: other tests run beside it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def log_filters_as_before() -> Iterator[None]:
    """A command that hides names in its logs hides none in those of later tests."""
    before = {handler: [*handler.filters] for handler in logging.getLogger().handlers}
    yield
    for handler in logging.getLogger().handlers:
        handler.filters = before.get(handler, [])


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
        # For the tests of what Prometheus gets: else every 10 s.
        _system_config={"metrics_report_interval_ms": 2000},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def demo_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's slides, drawn once: no test may change them."""
    from digipath_ray.demo.cohort import build_demo_cohort

    return build_demo_cohort(tmp_path_factory.mktemp("demo"), seed=7)


@pytest.fixture(scope="session")
def demo(
    demo_cohort: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None
) -> tuple[Path, int, str]:
    """The demo's directory, exit code and words; no test may change its run."""
    from rich.console import Console

    from digipath_ray.cli.demo import run_demo

    out = tmp_path_factory.mktemp("demo-run")
    (out / "cohort").symlink_to(demo_cohort.parent)
    words = io.StringIO()
    code = run_demo(Console(file=words, width=140), out)
    return out, code, words.getvalue()


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


@pytest.fixture(scope="session")
def head(
    tmp_path_factory: pytest.TempPathFactory, bucket_server: "Bucket"
) -> Iterator[dict[str, str]]:
    """The environment that reaches a Ray head with a token; its jobs find the bucket.

    It has a cache of slides of its own.
    """
    from tests.heads import token_head

    folder = tmp_path_factory.mktemp("head")
    more = {**bucket_server.environment, "DIGIPATH_CACHE": str(folder / "cache")}
    with token_head(folder, **more) as environment:
        yield environment


@pytest.fixture
def job_cohort(tmp_path: Path) -> Path:
    """Slides for a job, one of them broken, and config.toml beside their folder."""
    from tests.heads import CONFIG
    from tests.slides import paint, write_pyramid

    folder = tmp_path / "slides"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = np.full((256, 256, 3), 245, np.uint8)
        pixels[60:180, 40:200] = paint(rng.random((120, 160)))
        write_pyramid(folder / f"{name}.tif", pixels, mpp=1.0)
    (folder / "broken.tif").write_bytes(b"II*\0 and nothing more")
    (tmp_path / "config.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def bucket_url(bucket_server: "Bucket") -> str:
    """A folder of its own for each test; no fault, no request counted yet."""
    from tests.buckets import BUCKET

    bucket_server.faults.clear()
    bucket_server.requests.clear()
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
