"""A network compiled by torch with constants folded, held against the plain one."""

import copy
import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 0.15}
"""Difference of logits, relative to the largest, that rounding explains."""


class Compiled(nn.Module):
    """A network for batches of one shape, compiled by the first of them.

    Freezing lays weights out as the kernels want them, and has given wrong answers
    (findings/inductor_freezing_transposed_convolution.sh): the first batch is predicted
    by the plain network too, and where the two differ the constants are not frozen, or
    nothing is compiled.
    """

    def __init__(self, network: nn.Module) -> None:
        """A network in evaluation; compiling waits for the first batch."""
        super().__init__()
        self.plain = network
        self._chosen: Callable[..., Tensor] | None = None

    def forward(self, *batch: Tensor) -> Tensor:
        """What the network says of a batch, [n, 3, h, w] -> [n, 2, h, w]."""
        if self._chosen is None:
            want = self.plain(*batch)
            self._chosen = self._choose(batch, want)
            return cast(Tensor, want)
        return self._chosen(*batch)

    def _choose(self, batch: tuple[Tensor, ...], want: Tensor) -> Callable[..., Tensor]:
        # A second of every process that holds networks, of which few compile them.
        import torch._inductor.config as inductor

        for freezing in (True, False):
            # torch keeps what it compiled by the module: another try, another module.
            network = self.plain if freezing else copy.deepcopy(self.plain)
            compiled = torch.compile(network, dynamic=False)
            # torch.compile's own options do not reach freezing; it compiles here.
            with inductor.patch(freezing=freezing):
                found = compiled(*batch)
            if agree(found, want):
                return compiled
            log.warning(
                "compiled%s, the network gives other values than plain: not used",
                " with its weights frozen" if freezing else "",
            )
        return self.plain


def agree(found: Tensor, want: Tensor) -> bool:
    """Whether logits are equal but for rounding; not if one is NaN that was none."""
    largest = want.abs().nan_to_num().max()
    allowed = TOLERANCE[want.dtype] * torch.clamp(largest, min=1e-3)
    return torch.allclose(found, want, rtol=0.0, atol=float(allowed), equal_nan=True)
