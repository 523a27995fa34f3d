"""What ``digipath calibrate`` has measured, as the JSON file that ``plan`` reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.words import format_rate


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node as it was measured.

    Attributes:
        node: its name.
        gpu: name of its GPUs; None where there is none.
        gpus: how many Ray has of them.
        cpus: how many Ray has.
        memory_gb: that Ray has.
        patches_per_s: of one GPU, or of one CPU where there is none, with all members
            and transforms; None of a node without GPU where others have one.
        read_mpx_per_s: network px that one CPU reads in a second of its own, 1e6.
        versions: of what was running.
    """

    node: str
    gpu: str | None
    gpus: int
    cpus: int
    memory_gb: float
    patches_per_s: float | None
    read_mpx_per_s: float
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What ``digipath calibrate`` writes.

    Attributes:
        made: when, UTC.
        work: of which networks and patches the rates are (:func:`describe_ensemble`).
        read_from: the slide that was read.
        machines: one per kind of node.
    """

    made: str
    work: dict[str, Any]
    read_from: str
    machines: list[Machine]

    @property
    def predictor(self) -> Machine:
        """The machine whose rate of patches counts: with several kinds the fastest."""
        with_rate = [m for m in self.machines if m.patches_per_s is not None]
        on_gpu = [m for m in with_rate if m.gpu is not None]
        return max(on_gpu or with_rate, key=lambda m: m.patches_per_s or 0.0)

    @property
    def reader(self) -> Machine:
        """The machine whose reading counts: of those without GPU the slowest."""
        bare = [m for m in self.machines if m.gpu is None]
        return min(bare or self.machines, key=lambda m: m.read_mpx_per_s)


def describe_ensemble(config: RunConfig) -> dict[str, Any]:
    """What a rate of patches depends on, apart from the machine."""
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
    """The same in words."""
    return (
        f"{', '.join(work['networks'])} x {work['transforms']} transforms, patches of "
        f"{work['patch_px']} px"
    )


def format_machine(machine: Machine) -> str:
    """What was measured, in words."""
    device = machine.gpu or "one CPU"
    rate = machine.patches_per_s
    predicts = "" if rate is None else f"{format_rate(rate)} on {device}, "
    return f"{machine.node}: {predicts}reads {machine.read_mpx_per_s:.1f} Mpx/s per CPU"


def read_calibration(path: Path, config: RunConfig) -> Calibration:
    """What was measured, if it is of the config's networks.

    Raises:
        ValueError: no calibration, or one of other networks, transforms or patches.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
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
            f"{path}: no calibration ({e}): digipath calibrate --out {path}"
        ) from e
    work = describe_ensemble(config)
    other = [
        f"{name}: {values['work'].get(name)}, not {value}"
        for name, value in work.items()
        if values["work"].get(name) != value
    ]
    if other:
        raise ValueError(
            f"{path} was measured for another run ({'; '.join(other)}): calibrate "
            "with the options of this one"
        )
    return Calibration(**{**values, "machines": machines})
