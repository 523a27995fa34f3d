"""A network that misbehaves while a file tells it to."""

import os
import time
from pathlib import Path

import torch
from torch import Tensor

from tests.tiny import Tiny

ORDERS = "CHAOS_ORDERS"
"""Variable of the environment: the folder of the orders."""


class Unruly(Tiny):
    """Answers as :class:`Tiny`, unless an order is there: a file of its name.

    One batch obeys an order, which is gone then; batches of one patch have memory.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        folder = os.environ.get(ORDERS)
        if folder is None or pixels.is_meta:
            return super().forward(pixels)
        if len(pixels) > 1 and _obeys(folder, "gpu-memory"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if _obeys(folder, "gpu-lost"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if _obeys(folder, "slow-network"):
            time.sleep(5)
        answer = super().forward(pixels)
        for order, value in (("nan", torch.nan), ("inf", torch.inf)):
            if _obeys(folder, order):
                return torch.full_like(answer, value)
        return answer


def _obeys(folder: str, order: str) -> bool:
    """Whether the order was there, and this process was the one to take it."""
    try:
        Path(folder, order).unlink()
    except FileNotFoundError:
        return False
    return True
