"""Measurements of ``digipath calibrate`` and ``bench``, as the file ``plan`` reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.storage.files import publish, read_json
from digipath_ray.words import format_rate


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A measured node.

    Attributes:
        node: its name.
        gpu: name of its GPUs; None without GPU.
        gpus: GPUs registered in Ray.
        cpus: CPUs registered in Ray.
        memory_gb: memory registered in Ray.
        patches_per_s: of one GPU, or one CPU if no node has a GPU, with all members and
            transforms; None for a node without GPU if others have one.
        read_mpx_per_s: network px that one CPU reads per CPU second, 1e6.
        versions: software versions.
        bench: all that ``digipath bench`` measured, whose rate is that of a run; None
            of ``digipath calibrate``, whose rate is that of the networks alone.
    """

    node: str
    gpu: str | None
    gpus: int
    cpus: int
    memory_gb: float
    patches_per_s: float | None
    read_mpx_per_s: float
    versions: dict[str, str]
    bench: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Output of ``digipath calibrate`` or ``digipath bench``.

    Attributes:
        made: when, UTC.
        work: networks and patches of the rates (:func:`describe_ensemble`).
        read_from: slide used to measure reading.
        machines: one per kind of node.
    """

    made: str
    work: dict[str, Any]
    read_from: str
    machines: list[Machine]

    @property
    def predictor(self) -> Machine:
        """Machine whose patch rate is used: the fastest."""
        with_rate = [m for m in self.machines if m.patches_per_s is not None]
        on_gpu = [m for m in with_rate if m.gpu is not None]
        return max(on_gpu or with_rate, key=lambda m: m.patches_per_s or 0.0)

    @property
    def reader(self) -> Machine:
        """Machine whose reading rate is used: the slowest of those without GPU."""
        bare = [m for m in self.machines if m.gpu is None]
        return min(bare or self.machines, key=lambda m: m.read_mpx_per_s)


def describe_ensemble(config: RunConfig) -> dict[str, Any]:
    """Settings that a patch rate depends on, besides the machine."""
    return {
        "networks": sorted(
            m.architecture + (f"/{m.encoder}" if m.encoder else "")
            for m in config.members
        ),
        "transforms": len(config.ensemble.tta),
        "patch_px": config.grid.patch_px,
        "precision": config.compute.precision,
        "compile_networks": config.compute.compile_networks,
    }


def format_ensemble(work: Mapping[str, Any]) -> str:
    """Format the settings of :func:`describe_ensemble`."""
    return (
        f"{', '.join(work['networks'])} x {work['transforms']} transforms, patches of "
        f"{work['patch_px']} px"
    )


def format_machine(machine: Machine) -> str:
    """Format the measurements of a machine."""
    device = machine.gpu or "one CPU"
    rate = machine.patches_per_s
    predicts = "" if rate is None else f"{format_rate(rate)} on {device}, "
    return f"{machine.node}: {predicts}reads {machine.read_mpx_per_s:.1f} Mpx/s per CPU"


def write_calibration(
    path: Path, config: RunConfig, machines: Sequence[Machine], *, slide: str | None
) -> None:
    """Write what was measured with a config; ``slide`` was read, or a drawn one."""
    found = Calibration(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        work=describe_ensemble(config),
        read_from=slide or "a drawn slide, JPEG in tiles of 256 px",
        machines=list(machines),
    )
    with publish(path.absolute()) as file:
        file.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")


def read_calibration(path: Path, config: RunConfig) -> Calibration:
    """Read a calibration that matches the config's networks.

    Raises:
        ValueError: not a calibration, or one of other networks, transforms or patches.
    """
    try:
        values = read_json(path)
        names = {f.name for f in fields(Calibration)}
        if (
            not isinstance(values, dict)
            or values.keys() != names
            or not values["machines"]
        ):
            raise ValueError("fields are missing")
        machines = [Machine(**m) for m in values["machines"]]
    except (ValueError, TypeError) as e:
        raise ValueError(
            f"{path}: not a calibration ({e}): run digipath calibrate --out {path}"
        ) from e
    work = describe_ensemble(config)
    other = [
        f"{name}: {values['work'].get(name)}, not {value}"
        for name, value in work.items()
        if values["work"].get(name) != value
    ]
    if other:
        raise ValueError(
            f"{path} was measured for other settings ({'; '.join(other)}): calibrate "
            "with the options of this run"
        )
    return Calibration(**{**values, "machines": machines})
