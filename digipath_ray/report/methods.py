"""Methods of a run, as text for a paper."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from digipath_ray import __version__
from digipath_ray.artifacts.kinds import KINDS
from digipath_ray.config.classes import WHOLE
from digipath_ray.config.member import CLASSES
from digipath_ray.config.run import MemberSpec, OutcomeSpec, RunConfig
from digipath_ray.networks.references import has_published_reference
from digipath_ray.stain.fields import FIELD_MPP
from digipath_ray.words import count, listed

TIMES = "\N{MULTIPLICATION SIGN}"
MM2 = "mm\N{SUPERSCRIPT TWO}"
UM = "\N{MICRO SIGN}m"
REFINED = {
    "crf": "a fully connected conditional random field",
    "random-walker": "random walks from what is sure",
    "contour": "a geodesic active contour",
}

TISSUE = {
    "otsu": "HSV saturation above that of the slide's own glass",
    "camelyon": "median-filtered HSV saturation above that of the slide's own glass",
    "paper": "Otsu's threshold on HSV saturation",
    "paip": "the color rule of the PAIP 2019 organizers and a floor of HSV saturation",
}
BLENDS = {
    "mean": "averaged where patches overlap",
    "linear": "blended linearly from the centers of patches that overlap",
    "gaussian": "blended by Gaussian weights where patches overlap",
}
NETWORKS = {
    "Unet": "U-Net",
    "UnetPlusPlus": "U-Net++",
    "Linknet": "LinkNet",
    "DeepLabV3Plus": "DeepLabV3+",
    "onnx": "a network from an ONNX file (in its own precision)",
    "exported": "a network from a torch.export file (in its own precision)",
}
"""Names of architectures that differ from their class names."""
REFERENCE = (
    "[1] Khened M, Kori A, Rajkumar H, Krishnamurthi G, Srinivasan B. A generalized "
    "deep learning framework for whole-slide image segmentation and analysis. "
    "Scientific Reports 11, 11579 (2021). doi:10.1038/s41598-021-90444-8"
)


def write_methods(
    config: RunConfig, metrics: Mapping[str, Any], *, precision: str | None
) -> list[str]:
    """Describe the run, one paragraph per step, with all relevant parameters.

    Args:
        config: config of the run.
        metrics: metrics of the run, for the software versions.
        precision: precision of the networks; None if no slide finished.
    """
    return [
        " ".join(part)
        for part in (
            [*_reading(config), *_artifacts(config), *_normalizing(config)],
            _segmenting(config),
            [*_lesions(config), *_ending(config)],
            _software(metrics, precision),
        )
    ]


def _reading(config: RunConfig) -> Iterator[str]:
    slide, tissue, grid = config.slide, config.tissue, config.grid
    upsampled = ", coarser ones interpolated" if slide.allow_upsampling else ""
    yield f"Whole-slide images were read at {grid.mpp:g} {UM}/px{upsampled}."
    if tissue.tissue == "all":
        yield "Each whole slide was treated as tissue."
        return
    ink = "pen marks excluded, " if tissue.exclude_ink else ""
    around = f" and {tissue.margin_um:g} {UM} around it" if tissue.margin_um else ""
    yield (
        f"Tissue was found at {tissue.mask_mpp:g} {UM}/px by {TISSUE[tissue.tissue]}, "
        f"{ink}gaps up to {tissue.close_um:g} {UM} closed and specks up to "
        f"{tissue.open_um:g} {UM} removed; every patch that touches it{around} "
        "was predicted."
    )


STAINS = {
    "macenko": (
        "their two stains, found by the method of Macenko et al. (2009)",
        "Each stain was replaced by, and its 99th percentile scaled to, that of",
    ),
    "reinhard": (
        "mean and deviation of their colors, by the method of Reinhard et al. (2001)",
        "Both were brought to those of",
    ),
}


def _normalizing(config: RunConfig) -> Iterator[str]:
    method = config.slide.stain
    if method == "none":
        return
    found, done = STAINS[method]
    published = [has_published_reference(m) for m in config.members]
    whose = "each network's training slides (median)"
    if all(published):
        whose = "Macenko's published reference"
    elif any(published):
        whose += ", or of Macenko's published reference where its card states none"
    yield (
        f"Slides were normalized by {found}, one estimate per slide from tissue at "
        f"{FIELD_MPP:g} {UM}/px. {done} {whose}; slides whose stains could not be told "
        "or were of another kind are flagged and stayed as they were."
    )


def _artifacts(config: RunConfig) -> Iterator[str]:
    """Where tissue is not to be trusted."""
    spec = config.artifacts
    if not spec.find:
        return
    yield (
        f"Artifacts ({listed(k.name for k in KINDS)}) were mapped: tissue out of focus "
        f"by the energy of detail at 1 to 16 {UM} relative to coarser detail, folds by "
        "the density of the darkest pixels relative to that around, rims and blots by "
        "dark without color, pen by its color."
    )
    if spec.exclude:
        yield (
            f"Patches all of whose tissue lies in {listed(spec.exclude)} were left out."
        )


def _segmenting(config: RunConfig) -> Iterator[str]:
    grid, ensemble, members = config.grid, config.ensemble, config.members
    names = listed(_format_member(m) for m in members) if members else "none named"
    one = len(members) == 1
    networks = (
        "a network" if one else f"an ensemble of {count(len(members), 'network')}"
    )
    yield (
        f"Patches of {grid.patch_px} {TIMES} {grid.patch_px} px at a stride of "
        f"{grid.stride_px} px were segmented by {networks} ({names})."
    )
    if grid.overlap == "adaptive":
        yield (
            "Each network first predicted patches that cover the tissue once, and the "
            "overlapping ones only where its probability, averaged over "
            f"{grid.doubt_um:g} {UM}, or its disagreement between "
            f"orientations reached {grid.doubt:g}."
        )
    if ensemble.cascade and not one:
        yield (
            "The networks took turns in the order named, each on patches in which the "
            f"probability of one before it, averaged over {grid.doubt_um:g} {UM}, or "
            f"its disagreement between orientations reached {grid.doubt:g}."
        )
    if len(ensemble.tta) > 1:
        views = ", ".join(ensemble.tta)
        yield f"Each patch was seen in {len(ensemble.tta)} orientations ({views})."
    if any(m.temperature != 1 for m in members):
        yield "Logits were divided by each network's calibration temperature."
    mean = "" if one and len(ensemble.tta) == 1 else "mean "
    yield (
        f"The {mean}tumor probability is kept at "
        f"{grid.mpp * grid.downsample:g} {UM}/px, {BLENDS[ensemble.blend]}."
    )
    if ensemble.keep_classes and members:
        yield (
            f"So is that of each class ({listed(members[0].classes)}); a pixel of "
            "tissue counts to the area of the class that is likeliest there, tumor "
            "being measured by its threshold all the same."
        )
    if len(ensemble.tta) > 1:
        yield "Aleatoric uncertainty is the variance over these views [1, eq. 4]."
    if not one:
        where = ", where at least two saw a patch" if ensemble.cascade else ""
        yield (
            "Epistemic uncertainty is the variance over the networks"
            f"{where} [1, eq. 5]."
        )


def _format_member(member: MemberSpec) -> str:
    name = NETWORKS.get(member.architecture, member.architecture)
    encoder = (member.encoder or "").removeprefix("tu-")  # "from timm"
    text = f"{name} with {encoder}" if encoder else name
    if member.classes != CLASSES:
        text += f", whose tumor is its class {listed(member.tumor_classes)}"
    if member.context_mpp_factor is None:
        return text
    return f"{text}, which sees surroundings {member.context_mpp_factor} times as wide"


def _lesions(config: RunConfig) -> Iterator[str]:
    yield (
        "Lesions are 8-connected regions with a tumor probability of at least "
        f"{config.outcome.threshold:.3g}."
    )
    if config.outcome.refine != "none":
        yield (
            "Their outlines were moved to the slide's colors within about "
            f"{config.outcome.refine_um:g} {UM} by {REFINED[config.outcome.refine]}."
        )


def _ending(config: RunConfig) -> Iterator[str]:
    spec = config.outcome
    if spec.outcome == "burden":
        yield from _burden(config)
    if spec.outcome == "stage":
        yield _types(spec)
        yield (
            "A patient's pN stage follows from the types of the nodes by the rules of "
            "the CAMELYON17 challenge [1, Table 3]; isolated tumor cells do not count "
            "as metastasis, and a patient with a node without type is staged as "
            '"at least".'
        )


def _types(spec: OutcomeSpec) -> str:
    if spec.stage_model is not None:
        return (
            "Metastasis types are the majority vote of four random forests, a tie "
            "going to the graver type, over 32 features of the lesions at "
            "probabilities of 0.9 and 0.5 [1, Table 5] (model "
            f"{PurePath(spec.stage_model).name})."
        )
    return (
        f"Lesions less than {spec.merge_um:g} {UM} apart count as one; such a group is "
        f"ignored if it is shorter than {spec.min_lesion_um:g} {UM} or nowhere "
        f"reaches a probability of {spec.min_lesion_p:g}. A slide's type follows from "
        "the largest Feret diameter of the groups [1, Table 2]: isolated tumor cells "
        "up to 0.2 mm, micrometastasis up to 2 mm, macrometastasis beyond."
    )


def _burden(config: RunConfig) -> Iterator[str]:
    spec = config.outcome
    whole = "its convex hull where there is tissue"
    if WHOLE in config.channels:
        names = dict.fromkeys(listed(m.whole_classes) for m in config.members)
        whole = (
            f"where the networks' probability of {' or '.join(names)} reaches the same "
            "threshold, cleaned alike, with the viable tumor as part of it"
        )
    yield (
        f"The viable tumor is that region with gaps up to {spec.viable_close_um:g} "
        f"{UM} closed and parts up to {spec.viable_open_um:g} {UM} wide removed, in "
        f"pieces of at least {spec.min_viable_mm2:g} {MM2}; the whole tumor is {whole}."
    )
    if spec.refine_hull:
        yield "The hull was refined by a morphological active contour."
    yield "Tumor burden is the area of the viable by that of the whole tumor."


def _software(metrics: Mapping[str, Any], precision: str | None) -> Iterator[str]:
    machine = metrics.get("machine", {})
    ran = machine.get("digipath_ray", __version__)
    names = (("python", "Python"), ("ray", "Ray"), ("torch", "PyTorch"))
    beside = ", ".join(
        f"{name} {machine[key]}" for key, name in names if key in machine
    )
    using = f" ({beside})" if beside else ""
    exact = f" in {precision}" if precision is not None else ""
    yield f"All was computed with digipath_ray {ran}{using}{exact}."
