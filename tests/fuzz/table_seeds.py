"""Small valid annotations, manifests, settings, weights, and the files of a run."""

import contextlib
import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image

from digipath_ray.cohort.manifest import SlideRow, write_manifest
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import Tree, from_tree, read_toml, to_tree
from digipath_ray.outcome.features import FEATURES, FEATURES_SCHEMA
from digipath_ray.outcome.metastasis.forests import FORESTS, Forest, Forests
from digipath_ray.outcome.metastasis.model import (
    HeatmapSetting,
    StageCard,
    StageModel,
    save_stage_model,
)
from digipath_ray.outcome.staging import Metastasis, stage_patient
from digipath_ray.patches import keep_cells, patch_table
from digipath_ray.pipeline.finish import remeasure_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.patch_table import write_patches
from digipath_ray.run.record import SlideRecord
from digipath_ray.storage.digest import slide_digest
from digipath_ray.tissue.mask import read_mask
from tests.annotated import write_disc
from tests.finished_runs import HEIGHT, WIDTH, Made, failure_of, write_run
from tests.fuzz.mutations import Seed
from tests.fuzz.slide_seeds import seed_of
from tests.members import write_tiny
from tests.runs import SMALL
from tests.slides import write_pyramid
from tests.viewing import tell

ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
<Annotation Name="a" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="40.5" Y="40" /><Coordinate Order="1" X="200" Y="40" />
<Coordinate Order="2" X="200" Y="150" /><Coordinate Order="3" X="40" Y="150" />
</Coordinates></Annotation>
<Annotation Name="b" Type="Spline" PartOfGroup="hole" Color="#000000"><Coordinates>
<Coordinate Order="0" X="80" Y="80" /><Coordinate Order="1" X="120" Y="80" />
<Coordinate Order="2" X="100" Y="120" /></Coordinates></Annotation>
</Annotations><AnnotationGroups>
<Group Name="Tumor" PartOfGroup="None" Color="#ff0000"><Attributes /></Group>
<Group Name="hole" PartOfGroup="Exclusion" Color="#ff0000"><Attributes /></Group>
</AnnotationGroups></ASAP_Annotations>
"""
IMAGESCOPE = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="tumor" LineColor="255">
<Attributes><Attribute Id="0" Name="Description" Value="" /></Attributes><Regions>
<Region Id="1" Type="0" Zoom="0.5" NegativeROA="0" Text=""><Vertices>
<Vertex X="40" Y="40" Z="0" /><Vertex X="200" Y="40" Z="0" />
<Vertex X="200" Y="150" Z="0" /><Vertex X="40" Y="150" Z="0" /></Vertices></Region>
<Region Id="2" Type="2" NegativeROA="1" Text=""><Vertices>
<Vertex X="80" Y="80" Z="0" /><Vertex X="120" Y="110" Z="0" /></Vertices></Region>
</Regions><Plots /></Annotation></Annotations>
"""
HALO = """<Annotations><Annotation Name="Tumor" Visible="True" LineColor="65280">
<Regions><Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices>
<V X="40" Y="40" /><V X="200" Y="40" /><V X="200" Y="150" />
</Vertices><Comments /></Region>
<Region Type="Ellipse" HasEndcaps="0" NegativeROA="0"><Vertices><V X="30" Y="30" />
<V X="90" Y="90" /></Vertices><Comments /></Region>
<Region Type="Rectangle" HasEndcaps="0" NegativeROA="1"><Vertices><V X="50" Y="50" />
<V X="60" Y="60" /></Vertices><Comments /></Region></Regions></Annotation></Annotations>
"""
MEMBERS: list[Tree] = [
    {"name": name, "architecture": "tests.tiny:Tiny", "weights": "random", "seed": seed}
    for seed, name in enumerate("ab")
]
"""Two networks that are built in no time."""


def text_seeds(**files: str) -> list[Seed]:
    return [
        Seed(name=name.replace("_", "."), data=text.encode())
        for name, text in files.items()
    ]


def asap_seeds(folder: Path) -> list[Seed]:
    return text_seeds(asap_xml=ASAP)


def imagescope_seeds(folder: Path) -> list[Seed]:
    return text_seeds(imagescope_xml=IMAGESCOPE)


def halo_seeds(folder: Path) -> list[Seed]:
    return text_seeds(halo_xml=HALO)


def geojson_seeds(folder: Path) -> list[Seed]:
    """QuPath's, of one disc, and of a polygon with a hole and children."""
    ring = [[40, 40], [200, 40], [200, 150], [40, 150], [40, 40]]
    hole = [[80, 80], [120, 80], [100, 120], [80, 80]]
    child = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "MultiPolygon", "coordinates": [[hole]]},
        "properties": {"classification": {"names": ["Tumor", "b"]}, "name": "c"},
    }
    feature = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "Polygon", "coordinates": [ring, hole]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Tumor", "colorRGB": -65536},
            "isLocked": False,
            "measurements": [],
            "childObjects": [child],
        },
    }
    return [
        seed_of(write_disc(folder / "disc.geojson")),
        Seed(name="list.geojson", data=json.dumps([feature]).encode()),
    ]


def mask_seeds(folder: Path) -> list[Seed]:
    """Masks of 0 and 255 as a PNG and a TIFF."""
    mask = np.zeros((96, 128), np.uint8)
    mask[30:60, 40:90] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return [seed_of(folder / "mask.png")]


def mask_tiff_seeds(folder: Path) -> list[Seed]:
    mask = np.zeros((192, 256), np.uint8)
    mask[60:120, 80:180] = 255
    Image.fromarray(mask).save(folder / "mask.tif", compression="tiff_deflate")
    return [seed_of(folder / "mask.tif")]


def rows() -> list[SlideRow]:
    return [
        SlideRow(
            slide_id=f"p{i}_node",
            path=f"/slides/p{i}.tif",
            mpp=0.5,
            annotation=f"/slides/p{i}.xml",
            exhaustive=True,
            patient_id=f"p{i}",
            node=str(i),
            label="macro" if i else "negative",
            split="train",
        )
        for i in range(4)
    ]


def manifest_seeds(folder: Path, suffix: str) -> list[Seed]:
    path = folder / f"cohort{suffix}"
    write_manifest(rows(), path)
    return [seed_of(path)]


def csv_seeds(folder: Path) -> list[Seed]:
    other = "sep=;\nslide;patient;file\n#1;p;a b.tif\n\n# comment\nb;p;c.svs\n"
    return [*manifest_seeds(folder, ".csv"), Seed(name="x.csv", data=other.encode())]


def tsv_seeds(folder: Path) -> list[Seed]:
    return manifest_seeds(folder, ".tsv")


def parquet_seeds(folder: Path) -> list[Seed]:
    return manifest_seeds(folder, ".parquet")


def run_toml_seeds(folder: Path) -> list[Seed]:
    config = from_tree({**SMALL, "members": MEMBERS})
    text = tomli_w.dumps(to_tree(config))
    return [Seed(name="run.toml", data=text.encode())]


def recipe_toml_seeds(folder: Path) -> list[Seed]:
    recipe = Recipe(members=from_tree({"members": MEMBERS}).members)
    return [Seed(name="recipe.toml", data=tomli_w.dumps(to_tree(recipe)).encode())]


def weights_seeds(folder: Path) -> list[Seed]:
    return [seed_of(write_tiny(folder))]


def card_seeds(folder: Path) -> list[Seed]:
    path = write_tiny(folder).with_suffix(".json")
    values = {**json.loads(path.read_text()), "threshold": 0.4, "notes": "of a test"}
    return [Seed(name=path.name, data=json.dumps(values, indent=2).encode())]


def stage_model() -> StageModel:
    """Four forests of one tree each: above 100 of the first feature it is macro."""
    share = np.zeros((3, len(Metastasis)))
    share[1, 0] = share[2, 3] = 1
    forest = Forest(
        feature=np.zeros(3, np.int32),
        threshold=np.array([100.0, 0, 0]),
        left=np.array([1, 1, 2], np.int32),
        right=np.array([2, 1, 2], np.int32),
        share=share,
        roots=np.zeros(1, np.int32),
        importance=np.eye(1, len(FEATURES))[0],
    )
    names = [spec.name for spec in FORESTS]
    counts = dict.fromkeys(names, (1, 1, 1, 1))
    seeds = dict.fromkeys(names, 0)
    card = StageCard(
        setting=HeatmapSetting(
            mpp=1.0, downsample=4, threshold=0.5, merge_um=75.0, members=("a" * 64,)
        ),
        effective_mpp=(0.9, 1.1),
        min_lesion_um=40.0,
        min_lesion_p=0.7,
        trees=1,
        seed=0,
        partial="empty",
        folds=3,
        seeds=seeds,
        types=(1, 1, 1, 1),
        fitted_on=counts,
        slides=4,
        patients=4,
        overlap=0,
        scores={"forests": {"kappa": 0.5}},
        versions={"numpy": "2"},
        notes=("of a test",),
    )
    forests = Forests(forests=dict.fromkeys(names, forest), seeds=seeds, counts=counts)
    return StageModel(forests=forests, card=card)


def skops_seeds(folder: Path) -> list[Seed]:
    save_stage_model(folder / "stage.skops", stage_model())
    return [seed_of(folder / "stage.skops")]


SLIDE = "s.tif"
METRICS: Tree = {
    "patches": 100, "predicted_share": 1.0, "prepare_s": 1.0, "start_s": 0.5,
    "segment_s": 3.0, "patches_per_s": 33.3, "batch_fill": 0.9, "open_slides_max": 2,
    "first_slide_s": 1.0, "last_tenth_s": None, "slides": 2, "finished": 2,
    "failed": 1, "failed_at": {"read": 1}, "failed_by": {"slide": 1},
    "read": {"workers": 2, "seconds": 1.5, "busy": 0.4, "mpx_per_s": 20.0},
    "predict": {"workers": 1, "on": "cpu", "seconds": 2.5, "busy": 0.9},
    "finish": {"seconds": 0.5, "waited_for_s": 0.1}, "bottleneck": "predict",
    "machine": {"node": "n", "cpus": 2}, "versions": {"torch": "2"},
}  # fmt: skip


def write_whole_run(root: Path) -> RunDirectory:
    """A finished run of two slides with all of its files, and one that failed.

    Its slide lies in it, under a path relative to it: the same bytes wherever it is.
    """
    root.mkdir(parents=True)
    slide = write_pyramid(
        root / SLIDE,
        np.full((HEIGHT // 8, WIDTH // 8, 3), 240, np.uint8),
        mpp=8.0,
    )
    said = {
        "path": SLIDE, "patient_id": "p1", "node": "1", "offset_x": 0,
        "offset_y": 0, "canvas_width": WIDTH, "canvas_height": HEIGHT,
        "digest": slide_digest(slide), "seen_by": [],
    }  # fmt: skip
    lesions = ((1500.0, 1500.0, 700.0, 0.95),)
    made = [
        Made(slide_id="with", lesions=lesions, slide=said),
        Made(slide_id="without", slide={**said, "node": "2"}),
    ]
    run = write_run(
        root,
        made,
        settings={"members": MEMBERS, "outcome": {"outcome": "stage"}},
        failures=[failure_of("broken", "p1")],
        patients=[stage_patient("p1", [Metastasis.MACRO, None])],
    )
    config = from_tree(read_toml(run.settings))
    for slide_id in ("with", "without"):
        record = run.read_record(slide_id)
        remeasure_slide(run, record, config)
        write_patch_table(run, run.read_record(slide_id).slide)
    features = [
        {"slide_id": slide_id, **dict.fromkeys(FEATURES, 0.125)}
        for slide_id in ("with", "without")
    ]
    run.write_table(run.features, features, FEATURES_SCHEMA)
    run.write_json(run.metrics, METRICS)
    then = "2026-11-29T03:00:00+00:00"
    ended = {"phase": "done", "host": "node", "pid": 1, "updated": then}
    tell(run, started=then, done=2, failed=1, progress={"with": 1.0}, **ended)
    records = [run.read_record(slide_id).slide for slide_id in ("with", "without")]
    write_manifest([SlideRow(**record.columns()) for record in records], run.manifest)
    return run


def write_patch_table(run: RunDirectory, record: SlideRecord) -> None:
    config = from_tree(read_toml(run.settings))
    grid, mask = record.grid(config.grid), read_mask(run.mask(record.slide_id))
    cells = keep_cells(grid, mask)
    table = patch_table(record.slide_id, grid, cells, mask)
    write_patches(run, replace(record, patches=len(cells)), config, table)


RUN_FILES = {
    "done": "done/with.json",
    "heatmap": "heatmaps/with.ome.tiff",
    "tissue mask": "masks/with.png",
    "thumbnail": "thumbnails/with.jpg",
    "patches": "patches/with.parquet",
    "lesions": "lesions/with.geojson",
    "slides": "slides.parquet",
    "outcomes": "outcomes.parquet",
    "patients": "patients.parquet",
    "failures": "failures.parquet",
    "features": "features.parquet",
    "status": "status.json",
    "metrics": "metrics.json",
    "settings": "run.toml",
    "manifest": "manifest.csv",
}
"""Files of a run that are damaged, one at a time."""


@functools.cache
def run_seeds() -> dict[str, Seed]:
    """All files of the run, by their paths in it; made once in a process."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        root = write_whole_run(Path(folder) / "run").root
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        names = [path.relative_to(root).as_posix() for path in paths]
        found = [seed_of(path) for path in paths]
    return {
        name: Seed(name=name, data=seed.data, checked=seed.checked)
        for name, seed in zip(names, found, strict=True)
    }
