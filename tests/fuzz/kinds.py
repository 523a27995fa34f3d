"""Every kind of file: what writes it, what damages it, and what reads it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.fuzz import headers, slide_seeds, table_seeds, targets
from tests.fuzz.child import Kind
from tests.fuzz.mutations import CSV, JSON, TOML, XML, Mutator, Seed
from tests.fuzz.table_seeds import RUN_FILES

SECTIONS = ("config", "members", "member ", "weights", "[", "= ")
"""What a refusal of a setting names: its section, or the field with its value."""


def _kind(
    name: str,
    seeds: Callable[[Path], list[Seed]],
    mutators: tuple[Mutator, ...],
    target: Callable[[Path], targets.Target],
    says: tuple[str, ...] = (),
) -> Kind:
    return Kind(name=name, seeds=seeds, mutators=mutators, target=target, says=says)


s, t, h = slide_seeds, table_seeds, headers
SLIDES = tuple(
    _kind(name, seeds, mutators, targets.SlideTarget)
    for name, seeds, mutators in (
        ("TIFF", s.tiff_seeds, h.TIFF),
        ("BigTIFF", s.bigtiff_seeds, h.TIFF),
        ("SVS", s.svs_seeds, h.TIFF),
        ("SCN", s.scn_seeds, h.TIFF),
        ("OME-TIFF", s.ome_seeds, h.TIFF),
        ("NDPI", s.ndpi_seeds, h.TIFF),
        ("DICOM", s.dicom_seeds, h.DICOM),
        ("JPEG", s.jpeg_seeds, h.JPEG),
        ("PNG", s.png_seeds, h.PNG),
        ("BMP", s.bmp_seeds, h.BMP),
    )
)
MIRAX = _kind("MRXS", s.mirax_seeds, h.MIRAX, targets.MiraxTarget)
ANNOTATIONS = tuple(
    _kind(name, seeds, mutators, targets.AnnotationTarget)
    for name, seeds, mutators in (
        ("ASAP XML", t.asap_seeds, XML),
        ("ImageScope XML", t.imagescope_seeds, XML),
        ("HALO XML", t.halo_seeds, XML),
        ("GeoJSON", t.geojson_seeds, JSON),
        ("mask PNG", t.mask_seeds, h.PNG),
        ("mask TIFF", t.mask_tiff_seeds, h.TIFF),
    )
)
INPUTS = (
    _kind("CSV", t.csv_seeds, CSV, targets.ManifestTarget),
    _kind("TSV", t.tsv_seeds, CSV, targets.ManifestTarget),
    _kind("Parquet manifest", t.parquet_seeds, h.PARQUET, targets.ManifestTarget),
    _kind("run TOML", t.run_toml_seeds, TOML, targets.TomlTarget, SECTIONS),
    _kind("recipe TOML", t.recipe_toml_seeds, TOML, targets.TomlTarget, SECTIONS),
    _kind("safetensors", t.weights_seeds, h.SAFETENSORS, targets.WeightsTarget),
    _kind("model card", t.card_seeds, JSON, targets.WeightsTarget, SECTIONS),
    _kind("stage model", t.skops_seeds, h.ZIP, targets.StageModelTarget),
)
BY_SUFFIX: dict[str, tuple[Mutator, ...]] = {
    ".json": JSON,
    ".geojson": JSON,
    ".parquet": h.PARQUET,
    ".toml": TOML,
    ".csv": CSV,
    ".png": h.PNG,
    ".jpg": h.JPEG,
    ".tiff": h.TIFF,
}


def _seeds_in_run(folder: Path, *, file: str) -> list[Seed]:
    return [t.run_seeds()[file]]


RUN = tuple(
    Kind(
        name=f"run: {name}",
        seeds=partial(_seeds_in_run, file=file),
        mutators=BY_SUFFIX[Path(file).suffix],
        target=targets.RunTarget,
        says=("run.toml", "with", "/run", *(SECTIONS if name == "settings" else ())),
        share=0.12,
    )
    for name, file in RUN_FILES.items()
)
KINDS = {kind.name: kind for kind in (*SLIDES, MIRAX, *ANNOTATIONS, *INPUTS, *RUN)}
