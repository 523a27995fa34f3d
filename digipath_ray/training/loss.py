"""Training loss: cross-entropy plus Dice of each class.

logits -> sums over the batch -> (sums over all workers) -> loss

The paper's eq. 3, of two classes or several. The loss depends on 2 + 4 K sums over a
batch's pixels, so batches on several workers add up to exactly one big batch; losses of
segmentation_models_pytorch or MONAI reduce to a scalar per worker and cannot.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from digipath_ray.config.recipe import LossSpec

LOG_FLOOR = -100.0
"""Floor of log-likelihoods, so that one pixel cannot dominate a batch.

Same as torch's binary_cross_entropy. Float32 gradients are exact down to it; a higher
floor would zero the gradient of confidently wrong pixels.
"""

LOG_LIKELIHOOD, PIXELS = 0, 1
"""Indices of the first two sums; the others are those of :func:`class_sums`."""


def count_sums(classes: int) -> int:
    """How many sums there are of so many classes."""
    return 2 + 4 * classes


def class_sums(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all sums those by class, [classes] each: overlap, squares, truth, probability.

    Of two classes the first is what is no tumor.
    """
    overlap, squares, truth, probability = sums[2:].reshape(4, -1)
    return overlap, squares, truth, probability


def segmentation_sums(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Compute the weighted sums over a batch's pixels.

    In order: log-likelihood of the true class; number of pixels; then, for each class,
    with p the probability and g the truth (0 or 1), the sums of p * g, of p ** 2, of g
    (which is g ** 2), and of p. Computed in float32 regardless of autocast (float64 for
    float64 logits).

    Args:
        logits: [batch, classes, height, width]; of two classes other and tumor.
        truth: [batch, height, width], the class; of two, bool or integer, nonzero =
            tumor.
        weight: [batch] or [batch, height, width]; 0 excludes a patch or pixel.

    Raises:
        ValueError: the shapes do not match.
    """
    _check_shapes(logits, truth, weight)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    if logits.shape[1] > 2:
        return _sums_of_several(exact, truth, weight)
    # Softmax of two classes is the sigmoid of their difference.
    odds = exact[:, 1] - exact[:, 0]
    tumor = truth != 0
    weight = weight.to(odds).reshape(len(weight), *(weight.shape[1:] or (1, 1)))
    # The log of a sigmoid is -inf where it rounds to 0; logsigmoid stays finite.
    log = logsigmoid(torch.where(tumor, odds, -odds)).clamp(min=LOG_FLOOR)
    ps = torch.sigmoid(-odds), torch.sigmoid(odds)
    gs = (~tumor).to(odds), tumor.to(odds)
    # The order of the indices above.
    sums = [
        weight * log,
        weight.expand_as(odds),
        *(weight * p * g for p, g in zip(ps, gs, strict=True)),
        *(weight * p * p for p in ps),
        *(weight * g for g in gs),
        *(weight * p for p in ps),
    ]
    return torch.stack([s.sum() for s in sums])


def _sums_of_several(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """The sums of more than two classes."""
    weight = weight.to(logits).reshape(len(weight), *(weight.shape[1:] or (1, 1)))
    chosen = truth.long()[:, None]
    log = logits.log_softmax(dim=1)
    of_truth = log.gather(1, chosen)[:, 0].clamp(min=LOG_FLOOR)
    p = log.exp()
    g = torch.zeros_like(p).scatter_(1, chosen, 1.0)
    whole = weight.expand_as(of_truth)
    by_class = [(whole[:, None] * part).sum((0, 2, 3)) for part in (p * g, p * p, g, p)]
    return torch.cat([torch.stack([(whole * of_truth).sum(), whole.sum()]), *by_class])


def _check_shapes(logits: Tensor, truth: Tensor, weight: Tensor) -> None:
    batch, *rest = logits.shape
    if len(rest) != 3 or rest[0] < 2:
        raise ValueError(
            f"logits {tuple(logits.shape)}, not [batch, classes, height, width] of 2 "
            "classes or more"
        )
    whole = (batch, *rest[1:])
    if truth.shape != whole:
        raise ValueError(f"truth {tuple(truth.shape)}, but logits of {whole} pixels")
    if weight.shape not in ((batch,), whole):
        raise ValueError(f"weight {tuple(weight.shape)}, not [{batch}] or {whole}")


def segmentation_loss(
    sums: Tensor, spec: LossSpec, tumor: Sequence[int] = (1,)
) -> Tensor:
    """Loss of a batch (eq. 3), a scalar, from its sums; 0 without pixels.

    Cross-entropy is minus the mean log-likelihood (eq. 2 is printed without sign and
    1/N). Dice losses are over the whole batch and smoothed, because eq. 1 is 0/0 on a
    patch without tumor. Of several classes ``dice_tumor`` is shared evenly by those
    that are tumor, ``dice_other`` by the others.

    Args:
        sums: of :func:`segmentation_sums`.
        spec: weights.
        tumor: numbers of the classes that are tumor.
    """
    pixels = sums[PIXELS]
    cross_entropy = -sums[LOG_LIKELIHOOD] / torch.where(pixels > 0, pixels, 1)
    losses = dice_losses(sums, spec)
    loss = spec.cross_entropy * cross_entropy
    others = len(losses) - len(tumor)
    for number, dice in enumerate(losses):
        is_tumor = number in tumor
        weight = spec.dice_tumor if is_tumor else spec.dice_other
        loss = loss + weight / (len(tumor) if is_tumor else others) * dice
    return loss


def dice_losses(sums: Tensor, spec: LossSpec) -> Tensor:
    """Dice losses [classes] of each class (eq. 1)."""
    overlap, squares, truth, probability = class_sums(sums)
    p = squares if spec.squared else probability
    numerator = 2 * overlap + spec.smoothing
    return 1 - numerator / (p + truth + spec.smoothing)


def reduced_sums(sums: Tensor) -> Tensor:
    """All-reduce the sums, with the gradient that DistributedDataParallel needs.

    The result is equal on every worker: the sums of all batches, so that
    ``segmentation_loss`` of it is the loss of one big batch. Sums are reduced because
    the Dice of a big batch is not the mean of the small batches' Dice.

    With loss L(S) of S = s_1 + ... + s_n, a worker can differentiate only its own s_r
    and gets L'(S) ds_r. These must be ADDED over the workers, but
    DistributedDataParallel takes their MEAN. So the gradient through s_r is multiplied
    by the number of workers here, and the loss needs no further scaling. Without
    torch.distributed, or with one worker, returns the sums unchanged.
    """
    if not dist.is_available() or not dist.is_initialized():
        return sums
    workers = dist.get_world_size()
    if workers == 1:
        return sums
    # all_reduce works in place and outside autograd, hence a copy without gradient.
    local = sums.detach()
    total = local.clone()
    dist.all_reduce(total)
    # The bracket is 0 in value and carries the gradient.
    return total + workers * (sums - local)
