"""Annotations of several classes: one of each class, and which of them counts where."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations.account import Account, ClassUse
from digipath_ray.annotations.annotation import Annotation, Bools
from digipath_ray.annotations.window import Window
from digipath_ray.config.fit_classes import ClassSpec

ReadThose = Callable[[frozenset[str]], Annotation]
"""Names of classes -> the annotation whose tumor is what is drawn as one of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayeredAnnotation:
    """An :class:`~digipath_ray.annotations.Annotation` that knows classes.

    Attributes:
        layers: annotation of each class but the first, encoded as tumor. Where several
            overlap, the last counts.
        tumor_numbers: classes that are tumor.
        all_tumor: what is drawn as one of these, encoded as tumor.
        drawn: what is drawn as any class but the first, encoded as tumor.
    """

    layers: tuple[Annotation, ...]
    tumor_numbers: tuple[int, ...]
    all_tumor: Annotation
    drawn: Annotation

    @classmethod
    def of(cls, spec: ClassSpec, read: ReadThose) -> "LayeredAnnotation":
        """The annotation of a file.

        Args:
            spec: the classes.
            read: reads it for some of them; called for all of them first.
        """
        drawn = read(frozenset(spec.names[1:]))
        return cls(
            drawn=drawn,
            all_tumor=read(frozenset(spec.tumor)),
            layers=tuple(read(frozenset([name])) for name in spec.names[1:]),
            tumor_numbers=spec.tumor_numbers,
        )

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of skipped elements of the file, by reason."""
        return self.drawn.skipped

    @property
    def account(self) -> Account:
        """What the file holds and what of it is used."""
        uses: list[ClassUse] = []
        for number, layer in enumerate(self.layers, start=1):
            found = layer.account.of("tumor")
            if number not in self.tumor_numbers:
                found = [replace(use, meaning="class") for use in found]
            uses += found
        whole = self.drawn.account
        others = [use for use in whole.classes if use.meaning != "tumor"]
        return replace(whole, classes=(*uses, *others))

    @property
    def area_px(self) -> float:
        """Area drawn as tumor, level-0 px, that of later classes over it included."""
        return self.all_tumor.area_px

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """The same, mm2, given um per level-0 px."""
        return self.all_tumor.area_mm2(mpp_x, mpp_y)

    def classes(self, window: Window) -> NDArray[np.uint8]:
        """The class of each pixel of a window [height, width]; 0: none is drawn."""
        found = np.zeros(window.shape, np.uint8)
        for number, layer in enumerate(self.layers, start=1):
            found[layer.tumor(window)] = number
        return found

    def tumor(self, window: Window) -> Bools:
        """Pixels of a window whose class is tumor, bool [height, width]."""
        return np.isin(self.classes(window), self.tumor_numbers)

    def ignored(self, window: Window) -> Bools:
        """Ignored pixels of a window, bool [height, width]."""
        return self.drawn.ignored(window)

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """Pixels of the whole slide that may contain tumor, bool [rows, cols]."""
        return self.all_tumor.tumor_map(l0_per_px_x, l0_per_px_y)
