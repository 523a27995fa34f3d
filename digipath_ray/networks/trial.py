"""A member from a file tried on pictures, before a slide is read.

What is inside such a file is only seen where it runs: whether it takes patches of that
size, what shape it answers in, and whether these are the numbers that its card says.
"""

import logging
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from digipath_ray.config.member import STRIDES
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.answers import ROUNDING, SUM_TOLERANCE, Answer
from digipath_ray.networks.build import Member
from digipath_ray.networks.from_file import FileNetwork, check_patch
from digipath_ray.networks.weights import load_member

log = logging.getLogger(__name__)

GLASS_GRAY = 243
# Optical densities of hematoxylin and eosin in R, G, B (Ruifrok and Johnston, 2001).
HEMATOXYLIN = np.array((0.65, 0.70, 0.29))
EOSIN = np.array((0.07, 0.99, 0.11))
AGAIN = 1e-3
"""Difference of answers, relative to the largest, that rounding explains."""
GROWTH_PX = 128
"""By which a patch is made larger to see how its answer grows: a multiple of every
output stride, so that no rounding of a strided network's sizes is taken for it."""
ALONG = {
    (2,): "the patch's height",
    (3,): "the patch's width",
    (2, 3): "all px of the patch",
    (1, 2, 3): "all px and classes of the patch",
}
"""Axes of an answer -> what a softmax over them, by mistake, adds up to 1 over."""


def trial_patches(side: int) -> dict[str, NDArray[np.uint8]]:
    """Pictures uint8 [side, side, 3]: bare glass, and the colors of H&E tissue.

    The tissue is noise of two stains, with nuclei of about 10 px; nobody would take it
    for tissue, but its colors are those that a network meets.
    """
    random = np.random.default_rng(0)
    coarse = gaussian_filter(random.standard_normal((side, side)), 4)
    fine = gaussian_filter(random.standard_normal((side, side)), 12)
    nuclei = coarse > np.quantile(coarse, 0.8)
    blue = 0.15 + 0.75 * nuclei
    pink = np.clip(0.4 + 4 * fine, 0, 1)
    density = blue[..., None] * HEMATOXYLIN + pink[..., None] * EOSIN
    tissue = GLASS_GRAY * np.exp(-density)
    glass = np.full((side, side, 3), GLASS_GRAY, np.uint8)
    return {"glass": glass, "tissue": tissue.astype(np.uint8)}


def stride_of(network: FileNetwork, side: int, width: int) -> int | None:
    """Px of the patch that a px of the answer stands for, from how it grows.

    Where the answer lies in one patch cannot be told from that patch: 64 px of 256 may
    be a quarter of its resolution, or its middle. An answer to a patch of one px more
    does not tell either: a stride of 4 may round 257 px up to one px more.

    Args:
        network: of a file.
        side: of a patch that it takes.
        width: of its answer to it.

    Returns:
        None if it takes no patch of another size, or its answer does not grow.
    """
    for other in (side + GROWTH_PX, side - GROWTH_PX):
        if other <= 0 or not _takes(network, other):
            continue
        picture = torch.full((1, 3, other, other), GLASS_GRAY / 255)
        try:
            grown = {
                (size - width) * (other - side) for size in network(picture).shape[2:]
            }
        except (RuntimeError, ValueError):
            continue
        for stride in STRIDES:
            if grown == {GROWTH_PX**2 // stride}:
                return stride
    return None


def _takes(network: FileNetwork, side: int) -> bool:
    """Whether the file states that it takes patches of this side."""
    ranges = ((s, s) if isinstance(s, int) else s for s in network.sides)
    return all(low <= side and (high is None or side <= high) for low, high in ranges)


def try_member(spec: MemberSpec, *, patch_px: int) -> dict[str, float]:
    """Run a member from a file on the two pictures.

    Args:
        spec: its digest is checked where it has one.
        patch_px: side of the patches that it is to take.

    Returns:
        Name of the picture -> share of it that the member takes for tumor.

    Raises:
        ValueError: the file cannot be loaded, or takes no patches of that size; or what
            it answers is not what the card says, or NaN.
    """
    member = load_member(spec)
    network = member.network
    assert isinstance(network, FileNetwork)
    check_patch(network, patch_px)
    patches = trial_patches(patch_px)
    pictures = torch.from_numpy(np.stack([*patches.values()])).permute(0, 3, 1, 2)
    try:
        answer = member.answers(pictures)
        cut = member.answer.cut_of(tuple(answer.shape), (patch_px, patch_px))
        if cut:
            _check_stride(network, member.answer, patch_px, answer.shape[-1])
        _check_answer(answer, member, patches)
        check_again(answer[-1:], member.answers(pictures[-1:]))
        tumor = member.answer.posterior(answer, (patch_px, patch_px)) > 0.5
    except (RuntimeError, ValueError) as e:
        raise ValueError(f"member {spec.name}, tried on pictures: {e}") from e
    shares = tumor.float().mean((1, 2)).tolist()
    return dict(zip(patches, shares, strict=True))


def _check_stride(
    network: FileNetwork, says: Answer, patch_px: int, width: int
) -> None:
    """Refuse an output stride that the answer does not grow by."""
    stride = stride_of(network, patch_px, width)
    if stride is not None and stride != says.stride:
        cut = max(0, (patch_px - width * stride) // 2)
        raise ValueError(
            f"its answer to a patch of {patch_px} px has {width} px, and to one larger "
            f'by {GROWTH_PX} px {GROWTH_PX // stride} more: "output_stride": {stride} '
            f"in its card, not {says.stride}; then it lacks {cut} px along each edge, "
            "which border_px must be at least"
        )


def _check_answer(answer: Tensor, member: Member, names: Iterable[str]) -> None:
    """Refuse numbers that are not what they should be."""
    for name, one in zip(names, answer, strict=True):
        bad = int((~one.isfinite()).sum())
        if bad:
            raise ValueError(
                f"{bad} of {one.numel()} numbers of its answer to {name} are NaN or "
                "infinite"
            )
    check_numbers(answer, member.answer)


def check_again(answer: Tensor, again: Tensor) -> None:
    """Refuse a network that says something else of a patch when it is asked again.

    Raises:
        ValueError: by how much, and what to do.
    """
    most = float((answer - again).abs().max())
    if most > AGAIN * max(1.0, float(answer.abs().max())):
        raise ValueError(
            f"its answer to a patch differs by {most:.3g} when the patch is in another "
            "batch: dropout or batch normalization works as in training, or a softmax "
            "runs over the batch: export it after model.eval()"
        )


def check_numbers(answer: Tensor, says: Answer) -> None:
    """Refuse numbers [B, K, h, w] that are not what they are said to be.

    Raises:
        ValueError: what they are, and what to write in the card.
    """
    low, high = float(answer.min()), float(answer.max())
    within = low >= -ROUNDING and high <= 1 + ROUNDING
    if within:
        check_sums(answer)
    off = float((answer.sum(1) - 1).abs().max())
    if says.probabilities:
        if not within:
            raise ValueError(
                f"its answer runs from {low:.4g} to {high:.4g}: no "
                'probabilities, as its card says: "output": "logits"?'
            )
        if not says.sigmoid and off > SUM_TOLERANCE:
            raise ValueError(
                f"its probabilities add up to 1 but for {off:.2g}: classes that stand "
                'each for itself are "activation": "sigmoid"'
            )
    elif within and says.channels > 1 and off <= SUM_TOLERANCE:
        raise ValueError(
            "its answer lies within 0 and 1 and adds up to 1 over its classes: these "
            'are probabilities, not logits: "output": "probabilities" in its card'
        )
    elif within:
        log.warning(
            "a network's answer lies within 0 and 1 on every picture, though its card "
            'says logits: if these are probabilities, say "output": "probabilities"'
        )


def check_sums(answer: Tensor) -> None:
    """Refuse probabilities [B, K, h, w] that add up to 1 along a patch.

    Raises:
        ValueError: along what.
    """
    for axes, along in ALONG.items():
        if any(answer.shape[axis] == 1 for axis in axes if axis != 1):
            continue
        if float((answer.sum(axes) - 1).abs().max()) <= SUM_TOLERANCE:
            raise ValueError(
                f"its answer adds up to 1 over {along}: a softmax over the wrong "
                "dimensions (of [batch, classes, height, width] it must be the second; "
                "before opset 13 ONNX's runs over all from its axis on): export it "
                "again"
            )
