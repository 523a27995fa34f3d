"""How well this machine does: networks alone, a whole run, reading, disk, object store.

A run is held against the networks alone in as many processes: what lies between is the
pipeline's own cost.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.demo.cohort import demo_slides, write_pyramid
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.distributed.calibrate import describe_machine, measure_reading
from digipath_ray.distributed.resources import Share, divide
from digipath_ray.distributed.run import run_cohort
from digipath_ray.machine import keep_freed_memory
from digipath_ray.planning.rate import noise_chunk
from digipath_ray.planning.speed import Machine
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.info import Pixels

BARE_S = 10.0
RUN_S = 30.0
MOST_SLIDES = 64
SLIDE_PX = 8192
"""Side of a drawn slide; a longer run has more of them."""
BLOCK_BYTES = 64 << 20
DISK_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured; rates are per second.

    Attributes:
        devices: GPUs, or CPUs, that the networks run on.
        bare: patches by the networks alone, in as many processes as the run has.
        run: patches by a run, from the first one predicted to its end.
        patches: of the run.
        start_s: from the start of the run to its first patch.
        bottleneck: of the run, in words.
        read_mpx: network px that one CPU reads, 1e6.
        needed_mpx: network px that the networks alone take, 1e6.
        disk_write_mb, disk_read_mb: where runs are written, 1e6 bytes.
        store_mb: through Ray's object store, put and read again, 1e6 bytes.
    """

    devices: float
    bare: float
    run: float
    patches: int
    start_s: float
    bottleneck: str
    read_mpx: float
    needed_mpx: float
    disk_write_mb: float
    disk_read_mb: float
    store_mb: float

    @property
    def of_bare(self) -> float:
        """What share of the networks' own rate the run has."""
        return self.run / self.bare

    @property
    def reading_cpus(self) -> float:
        """CPUs that read as fast as the networks predict."""
        return self.needed_mpx / self.read_mpx


def measure_bench(config: RunConfig, folder: Path, slide: str | None) -> Bench:
    """Measure this cluster, in about two minutes unless its networks are slow.

    Args:
        config: networks, transforms and patches; resolved.
        folder: where runs would be written; what is written there is removed.
        slide: what to read for the rate of reading; None reads what is drawn.
    """
    share = divide(config)
    config = fit_chunks(config, share)
    members_together = replace(config, compute=replace(config.compute, pools="shared"))
    together = divide(members_together)
    before = bare_rate(members_together, together, seconds=BARE_S)
    with tempfile.TemporaryDirectory(prefix="digipath-bench-", dir=folder) as name:
        write, read = measure_disk(Path(name))
        slides = draw_slides(Path(name) / "slides", config, patches=before * RUN_S)
        run = RunDirectory(Path(name) / "run")
        metrics = run_cohort(run, read_cohort([slides]), config).metrics
        read_mpx = measure_reading(slide or str(slides / "s0.tif"), config)
    after = bare_rate(members_together, together, seconds=BARE_S)
    bare = (before + after) / 2
    return Bench(
        devices=devices_of(share, config.pools),
        bare=bare,
        run=metrics["patches_per_s"],
        patches=metrics["patches"],
        start_s=metrics["start_s"],
        bottleneck=metrics["bottleneck"],
        read_mpx=read_mpx,
        # Neighbors share their pixels: each patch adds a square of the stride.
        needed_mpx=bare * config.grid.stride_px**2 / 1e6,
        disk_write_mb=write,
        disk_read_mb=read,
        store_mb=measure_store(),
    )


def devices_of(share: Share, pools: int) -> float:
    """GPUs, or else CPUs, that the networks of a run take."""
    actors = share.actors * pools
    if share.actor_gpus > 0:
        return actors * share.actor_gpus
    return float(actors * share.actor_threads)


def fit_chunks(config: RunConfig, share: Share) -> RunConfig:
    """On CPUs a chunk of large patches takes minutes: one of a batch each."""
    if share.actor_gpus > 0 or config.grid.patch_px < 512:
        return config
    batch = config.cpu_batch_size
    compute = replace(config.compute, batch_size=batch, chunk_cells=batch)
    return replace(config, compute=compute)


def bare_rate(config: RunConfig, share: Share, *, seconds: float) -> float:
    """Patches/s of the networks in as many processes as the share has actors."""
    task = ray.remote(num_cpus=share.actor_cpus, num_gpus=share.actor_gpus)(_predict)
    return float(
        sum(ray.get([task.remote(config, share, seconds) for _ in range(share.actors)]))
    )


def _predict(config: RunConfig, share: Share, seconds: float) -> float:
    """Patches/s of the members alone, in a process like an actor's."""
    from digipath_ray.networks.predict import EnsemblePredictor

    keep_freed_memory()
    ensemble = EnsemblePredictor(
        config.members,
        config,
        device="cuda" if share.actor_gpus > 0 else "cpu",
        threads=share.actor_threads,
    )
    side = max(1, int(config.compute.chunk_cells**0.5))
    cells = np.argwhere(np.ones((side, side), bool)).astype(np.int32)
    pixels, index, contexts = noise_chunk(cells, config)

    def predict() -> int:
        return len(ensemble.predict(pixels, index, contexts=contexts).means[0])

    return rate_of(predict, seconds)


def rate_of(work: Callable[[], int], seconds: float) -> float:
    """How much a call does a second, which says how much it did; the first warms up."""
    work()
    started, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - started < seconds:
        done += work()
    return done / (time.perf_counter() - started)


def draw_slides(folder: Path, config: RunConfig, *, patches: float) -> Path:
    """A folder of slides, all tissue, that have about as many patches together."""
    stride, patch = config.grid.stride_px, config.grid.patch_px
    wanted = max(4, round(patches))
    side = min(SLIDE_PX, max(2 * patch, int(wanted**0.5) * stride + patch))
    folder.mkdir()
    write_pyramid(folder / "s0.tif", repeat_tissue(side), mpp=config.grid.mpp)
    each = max(1, (side - patch) // stride + 1) ** 2
    for number in range(1, min(MOST_SLIDES, -(-wanted // each))):
        _link(folder / "s0.tif", folder / f"s{number}.tif")
    return folder


def _link(path: Path, other: Path) -> None:
    """The same file under another name; symbolic links are one slide to a run."""
    try:
        os.link(path, other)
    except OSError:  # not on every file system
        shutil.copy(path, other)


def repeat_tissue(side: int) -> Pixels:
    """Drawn tissue [side, side, 3], repeated."""
    pixels, _ = draw_slide(demo_slides()[0])
    height, width = pixels.shape[:2]
    middle = pixels[height // 4 : -height // 4, width // 4 : -width // 4]
    repeats = [-(-side // n) for n in middle.shape[:2]]
    return np.tile(middle, (*repeats, 1))[:side, :side]


def measure_disk(folder: Path, *, nbytes: int = DISK_BYTES) -> tuple[float, float]:
    """MB/s written to the disk, and read from it again past the system's cache."""
    block = np.random.default_rng(0).bytes(1 << 20)
    path = folder / "disk"
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(nbytes >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    written = time.perf_counter() - started
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        while file.read(1 << 20):
            pass
    read = time.perf_counter() - started
    path.unlink()
    return nbytes / 1e6 / written, nbytes / 1e6 / read


def measure_store(*, nbytes: int = BLOCK_BYTES, times: int = 8) -> float:
    """MB/s of a chunk's pixels that one process puts and another reads."""
    pixels = np.zeros(nbytes, np.uint8)
    pixels[:] = 7  # pages of zeros are not there yet
    add = ray.remote(num_cpus=0.1)(_add_up)
    ray.get(add.remote(ray.put(pixels)))  # starts the process
    started = time.perf_counter()
    for _ in range(times):
        assert ray.get(add.remote(ray.put(pixels))) == 7 * nbytes
    return times * nbytes / 1e6 / (time.perf_counter() - started)


def _add_up(pixels: Pixels) -> int:
    return int(pixels.sum(dtype=np.int64))


def machine_of(bench: Bench, node: Mapping[str, Any]) -> Machine:
    """As a calibration holds it: the rate is that of a run, not of bare networks.

    Args:
        bench: what was measured.
        node: what Ray knows of a node of the cluster, whose nodes are all alike.
    """
    described = describe_machine(node)
    figures = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in {**vars(bench), "of_bare": bench.of_bare}.items()
    }
    return replace(
        described,
        patches_per_s=bench.run / bench.devices,
        read_mpx_per_s=bench.read_mpx,
        bench=figures,
    )
