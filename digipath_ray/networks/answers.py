"""From what a network answers to the posteriors of each px of its patch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from digipath_ray.config.member import Answers

ROUNDING = 1e-3
"""So far beyond 0..1 a probability is taken for one that was rounded."""

SUM_TOLERANCE = 1e-2
"""So far from 1 probabilities of all classes may add up to, which are rounded too."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a network's answer is read.

    Attributes:
        channels: how many it has, one per class.
        tumor: those that are added up.
        probabilities: whether they are these, or logits.
        sigmoid: whether each class stands for itself, or all add up to 1.
        temperature: what logits are divided by.
        stride: px of the patch that one of the answer stands for, along a side.
        border_px: along a patch's edge, what is not used: the answer may lack it.
    """

    channels: int = 2
    tumor: tuple[int, ...] = (1,)
    probabilities: bool = False
    sigmoid: bool = False
    temperature: float = 1.0
    stride: int = 1
    border_px: int = 0

    @classmethod
    def of(cls, says: Answers) -> Self:
        """What a member or its card says."""
        return cls(
            channels=len(says.classes),
            tumor=tuple(says.classes.index(name) for name in says.tumor_classes),
            probabilities=says.output == "probabilities",
            sigmoid=says.activation == "sigmoid",
            temperature=says.temperature,
            stride=says.output_stride,
            border_px=says.border_px,
        )

    def posterior(self, answer: Tensor, size: tuple[int, int]) -> Tensor:
        """The tumor posterior float32 [B, H, W] of an answer [B, K, h, w].

        ``size`` is that of the patches, (H, W).

        A px of the answer stands for ``stride`` x ``stride`` px of the patch, in whose
        middle the answer lies. Where it lacks the border the posterior is 0: blending
        gives it no weight (:func:`digipath_ray.heatmap.canvas.window_of`).

        Raises:
            ValueError: the answer is of another shape than it should be.
        """
        cut = self.cut_of(tuple(answer.shape), size)
        return self._placed(self._tumor(answer.float()), cut)

    def sums(
        self, answer: Tensor, size: tuple[int, int], groups: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """The probability of each group of classes, float32 [B, groups, H, W].

        Args:
            answer: as :meth:`posterior`, whose errors these are, too.
            size: of the patches, (H, W).
            groups: numbers of the classes that are added up.
        """
        cut = self.cut_of(tuple(answer.shape), size)
        classes = self.classes(answer.float())
        return self._placed(torch.stack([_sum(classes, g) for g in groups], 1), cut)

    def _placed(self, found: Tensor, cut: int) -> Tensor:
        """What the answer says [..., h, w] at the patches' pixels."""
        if self.stride > 1:
            for axis in (-2, -1):
                found = found.repeat_interleave(self.stride, axis)
        return functional.pad(found, (cut,) * 4) if cut else found

    def cut_of(self, shape: tuple[int, ...], size: tuple[int, int]) -> int:
        """Model px along each edge of a patch (H, W) that an answer lacks.

        Raises:
            ValueError: an answer of this shape is none to such a patch.
        """
        if len(shape) != 4 or shape[1] != self.channels:
            raise ValueError(
                f"its answer has shape {list(shape)}, not [batch, {self.channels}, h, "
                "w]: one channel for each of its classes"
            )
        lacking = [
            side - found * self.stride
            for side, found in zip(size, shape[2:], strict=True)
        ]
        cut = lacking[0] // 2
        if lacking != [2 * cut, 2 * cut] or cut < 0:
            raise ValueError(
                f"its answer of {shape[2]} x {shape[3]} px, at an output_stride of "
                f"{self.stride}, does not lie in the middle of a patch of {size[0]} x "
                f"{size[1]} px: another output_stride, or another patch_px"
            )
        if cut > self.border_px:
            raise ValueError(
                f"its answer lacks {cut} px along each edge of the patch: "
                f"border_px must be {cut} at least, not {self.border_px} (or "
                f"output_stride is not {self.stride})"
            )
        return cut

    def classes(self, answer: Tensor) -> Tensor:
        """The probability of each class, [B, K, h, w]."""
        if self.probabilities:
            return answer
        logits = answer / self.temperature
        return logits.sigmoid() if self.sigmoid else logits.softmax(dim=1)

    def _tumor(self, answer: Tensor) -> Tensor:
        classes = self.classes(answer)
        if len(self.tumor) == 1 and not self.probabilities:
            return classes[:, self.tumor[0]]
        return _sum(classes, self.tumor)


def _sum(classes: Tensor, which: tuple[int, ...]) -> Tensor:
    """The sum [B, h, w] of some of the classes' probabilities [B, K, h, w]."""
    total = classes[:, list(which)].sum(1)
    # Sums of what was rounded; beyond that the ensemble refuses it by name.
    most = ROUNDING if len(which) == 1 else SUM_TOLERANCE
    rounded = (total > -ROUNDING) & (total < 1 + most)
    return torch.where(rounded, total.clamp(0, 1), total)
