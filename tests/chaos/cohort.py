"""The slides of a campaign, sick ones among them, and what is true of them."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomli_w

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree, from_tree, merge, to_tree
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.networks.resolve import resolve
from digipath_ray.storage.digest import slide_digest
from tests.buckets import BUCKET, send
from tests.runs import SMALL, make_run, write_cohort, write_slide

SICK = {
    "sick_cut": "cut short",
    "sick_empty": "empty",
    "sick_gone": "not found",
    "sick_glass": "no tissue",
}
"""Slide -> what its failure must say, one of its words."""
NETWORK = "tests.chaos.network:Unruly"
MEMBERS: Tree = {
    "members": [
        {
            "name": name,
            "architecture": NETWORK,
            "seed": seed,
            "weights": "random",
            "options": {"seconds": 0.06},
        }
        for seed, name in enumerate("ab")
    ],
    "outcome": {"outcome": "stage"},
}


@dataclass
class Cohort:
    """Slides on a disk.

    Attributes:
        folder: of the slides.
        manifest: CSV of all of them.
        config: TOML of the run.
        healthy: slide_id -> file.
        spare: files of other healthy slides, to replace one with.
        truth: digest of a slide's file -> its heatmap.
        remote: slides that the manifest names in a bucket; faults leave their files be.
    """

    folder: Path
    manifest: Path
    config: Path
    healthy: dict[str, Path]
    spare: list[Path]
    truth: dict[str, Heatmap] = field(default_factory=dict)
    remote: frozenset[str] = frozenset()

    def heatmap_of(self, path: Path) -> Heatmap:
        """What the heatmap of a slide's file must be."""
        return self.truth[slide_digest(path)]


def build_cohort(folder: Path, slides: int) -> Cohort:
    """Draw slides, and predict them in this process, undisturbed."""
    size = {"width": 210, "height": 170}
    rows = write_cohort(folder / "slides", slides, **size)
    (folder / "spare").mkdir()
    spare = [
        SlideRow(
            slide_id=f"spare{i}",
            path=str(
                write_slide(folder / "spare" / f"spare{i}.tif", seed=900 + i, **size)
            ),
        )
        for i in range(2)
    ]
    config = resolve(merge(SMALL, MEMBERS))
    truth = _predict(folder / "truth", [*rows, *spare], config)
    healthy = {row.slide_id: Path(row.path) for row in rows}
    add_sick(folder / "slides", next(iter(healthy.values())))
    manifest = folder / "cohort.csv"
    names = [*healthy, *SICK]
    lines = [
        "slide_id,path,patient_id",
        *(f"{name},slides/{name}.tif,p{i % 5}" for i, name in enumerate(names)),
    ]
    manifest.write_text("\n".join(lines) + "\n", "utf-8")
    settings = folder / "run.toml"
    settings.write_text(tomli_w.dumps(to_tree(config)), "utf-8")
    return Cohort(
        folder=folder,
        manifest=manifest,
        config=settings,
        healthy=healthy,
        spare=[Path(row.path) for row in spare],
        truth=truth,
    )


def move_to_bucket(cohort: Cohort) -> Cohort:
    """The same cohort, every fourth healthy slide in a bucket."""
    remote = frozenset(list(cohort.healthy)[::4])
    send(cohort.folder / "slides", f"s3://{BUCKET}/slides")
    text = cohort.manifest.read_text("utf-8")
    for name in remote:
        there = f"s3://{BUCKET}/slides/{name}.tif"
        text = text.replace(f",slides/{name}.tif,", f",{there},")
    cohort.manifest.write_text(text, "utf-8")
    return replace(cohort, remote=remote)


def _predict(out: Path, rows: list[SlideRow], config: RunConfig) -> dict[str, Heatmap]:
    quick = [{**m, "options": {}} for m in to_tree(config)["members"]]
    run = make_run(out, rows, from_tree({**to_tree(config), "members": quick}))
    return {
        slide_digest(row.path): read_heatmap(run.heatmap(row.slide_id)) for row in rows
    }


def add_sick(folder: Path, healthy: Path) -> None:
    """Slides that no run can use; one of them is not there."""
    data = healthy.read_bytes()
    (folder / "sick_cut.tif").write_bytes(data[: len(data) // 2])
    (folder / "sick_empty.tif").write_bytes(b"")
    write_slide(folder / "sick_glass.tif", glass=80)


def fresh_copy(cohort: Cohort, folder: Path) -> Cohort:
    """The cohort with slides of its own, which faults may change."""
    slides = folder / "slides"
    shutil.copytree(cohort.folder / "slides", slides)
    shutil.copytree(cohort.folder / "spare", folder / "spare")
    for path in (cohort.manifest, cohort.config):
        shutil.copy(path, folder)
    return Cohort(
        folder=folder,
        manifest=folder / cohort.manifest.name,
        config=folder / cohort.config.name,
        healthy={
            name: folder / "slides" / p.name for name, p in cohort.healthy.items()
        },
        spare=[folder / "spare" / path.name for path in cohort.spare],
        truth=cohort.truth,
        remote=cohort.remote,
    )
