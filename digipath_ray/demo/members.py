"""Three networks without trained weights that know tumor by its larger, paler nuclei.

Each looks at the hematoxylin in another way, so that they err in different places: by
the scale of its contrast, by the length of its dark runs along one diagonal (which
makes that member, like trained ones, not invariant to flips) and by counting nuclei.

They take RGB in 0..1 (mean 0, std 1) at 1.0 um/px and return two-class logits of the
same height and width. Their few constants were set on nodes drawn from seeds other
than the demo's.
"""

import abc
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

DYES = ((0.62, 0.70, 0.35), (0.16, 0.84, 0.48))
"""Optical density in R, G, B of hematoxylin and eosin, near Macenko et al. (2009)."""
POOL_UM = 22.0
"""Deviation of the Gaussian over which a neighborhood's nuclei are averaged."""
POOL_STRIDE = 4
FLOOR = 1e-5
"""Keeps the logarithm of glass's contrast, which is 0, finite."""
USUAL_DENSITY = 0.5
"""Mean hematoxylin density of tumor."""
DENSITY_RANGE = 0.5
"""Natural logarithm of how far from the usual density tumor is still believed."""
LEAST_EOSIN = 0.15
"""Eosin by hematoxylin below which the color is a marker's."""


class Unmix(nn.Module):
    """RGB in 0..1 to the densities of hematoxylin and eosin (color deconvolution)."""

    spectra: Tensor

    def __init__(self) -> None:
        super().__init__()
        dyes = torch.tensor(DYES)
        rest = torch.linalg.cross(dyes[0], dyes[1])
        unmix = torch.linalg.inv(torch.stack([*dyes, rest / rest.norm()]).T)
        self.register_buffer("spectra", unmix[:2].reshape(2, 3, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Densities [B, 2, H, W] of [B, 3, H, W]."""
        density = -torch.log(x.clamp(min=1 / 256))
        return functional.conv2d(density, self.spectra)


class Blur(nn.Module):
    """A Gaussian mean of deviation ``sigma`` px, over what lies inside the image.

    Summed from shifted copies: on a CPU five times as fast as a convolution of one
    channel. An edge is not continued outward, for that would count it many times.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        reach = math.ceil(2.6 * sigma)
        taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
        self.taps = [tap / sum(taps) for tap in taps]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] smoothed."""
        row = torch.ones_like(x[:1, :1, :1, :])
        column = torch.ones_like(x[:1, :1, :, :1])
        across = self._sum(x, -1) / self._sum(row, -1)
        return self._sum(across, -2) / self._sum(column, -2)

    def _sum(self, x: Tensor, axis: int) -> Tensor:
        r, length = len(self.taps) // 2, x.shape[axis]
        x = functional.pad(x, (r, r) if axis == -1 else (0, 0, r, r))
        total = self.taps[0] * x.narrow(axis, 0, length)
        for i, tap in enumerate(self.taps[1:], start=1):
            total = total.add_(x.narrow(axis, i, length), alpha=tap)
        return total


class Neighborhood(nn.Module):
    """The mean around every fourth px, and back to every px."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = Blur(POOL_UM / POOL_STRIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Mean [B, C, H/4, W/4]."""
        blurred: Tensor = self.blur(
            functional.avg_pool2d(x, POOL_STRIDE, ceil_mode=True)
        )
        return blurred


class SizeClassifier(nn.Module, abc.ABC):
    """Two measures of the nuclei, weighed to the logits of [other, tumor].

    Where the dyes are not a tumor's (glass, capsule, folds, ink) the answer is "other",
    whatever the measures say.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: tuple[float, float], bias: float) -> None:
        super().__init__()
        self.unmix = Unmix()
        self.around = Neighborhood()
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("bias", torch.tensor(bias))

    @abc.abstractmethod
    def measure(self, density: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Measures [B, 1, H/4, W/4] of hematoxylin [B, 1, H, W] and its mean."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 2, H, W] of RGB [B, 3, H, W] in 0..1."""
        dyes = self.unmix(x)
        means = self.around(dyes)
        mean = means[:, :1].clamp(min=0.01)
        first, second = self.measure(dyes[:, :1], mean)
        large = self.weight[0] * first + self.weight[1] * second + self.bias
        against = torch.logaddexp(-large, -plausible(mean, means[:, 1:]))
        logits = torch.cat([torch.zeros_like(against), -against], dim=1)
        up = functional.interpolate(
            logits, scale_factor=POOL_STRIDE, mode="bilinear", align_corners=False
        )
        return up[..., : x.shape[-2], : x.shape[-1]]


def plausible(hematoxylin: Tensor, eosin: Tensor) -> Tensor:
    """Logit of mean densities being a tumor's; ink holds no eosin."""
    off = torch.log(hematoxylin / USUAL_DENSITY) / DENSITY_RANGE
    no_ink = 30 * (eosin / hematoxylin - LEAST_EOSIN)
    return torch.minimum(5 * (1 - off**2), no_ink)


class NucleusScale(SizeClassifier):
    """Contrast of nuclei 12-20 um wide against that of nuclei 5-8 um wide.

    Contrast is the energy of a difference of Gaussians; a disk of diameter d answers
    most at a deviation of d / (2 sqrt 2).
    """

    def __init__(self) -> None:
        super().__init__(weight=(3.3, -3.5), bias=-14.2)
        self.blurs = nn.ModuleList(Blur(sigma) for sigma in (1.6, 2.5, 4.6, 7.4))

    def measure(self, density: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Log contrast: large by small nuclei, small nuclei by mean density."""
        a, b, c, d = (blur(density) for blur in self.blurs)
        small = self.around((a - b) ** 2) + FLOOR
        large = self.around((c - d) ** 2) + FLOOR
        return torch.log(large / small), torch.log(small / mean**2)


class NucleusTexture(SizeClassifier):
    """Length of the dark runs along one diagonal (a linear granulometry).

    An opening of length k keeps what is dark over at least k px on end.
    """

    LENGTHS = (2, 6, 12)

    def __init__(self) -> None:
        super().__init__(weight=(1.6, -5.4), bias=-10.6)
        self.fine = Blur(0.8)

    def measure(self, density: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Log share: long runs by short ones, short runs by mean density."""
        smooth = self.fine(density)
        kept = [opening(smooth, length) for length in self.LENGTHS]
        short = self.around(kept[0] - kept[1]) + FLOOR
        long = self.around(kept[1] - kept[2]) + FLOOR
        return torch.log(long / short), torch.log(short / mean)


def opening(x: Tensor, length: int) -> Tensor:
    """[B, C, H, W] opened by a line of ``length`` px along the main diagonal."""
    padded = functional.pad(x, (length - 1,) * 4, mode="replicate")
    lowest = -highest(-padded, length, down=1, right=1)
    return highest(lowest, length, down=1, right=1)


def highest(x: Tensor, length: int, *, down: int, right: int) -> Tensor:
    """Highest of ``length`` px on end in a direction, which is as much shorter.

    The window doubles at every step, so that 16 px cost four comparisons.
    """
    reach = 1
    while reach < length:
        step = min(reach, length - reach)
        dy, dx = step * down, step * right
        rows, cols = x.shape[-2] - dy, x.shape[-1] - dx
        x = torch.maximum(x[..., :rows, :cols], x[..., dy:, dx:])
        reach += step
    return x


class NucleusDensity(SizeClassifier):
    """How many nuclei there are, and how evenly dark the tissue is.

    Large nuclei are fewer than lymphocytes, yet fill the tissue more evenly than the
    few nuclei of sinuses and capsule.
    """

    def __init__(self) -> None:
        super().__init__(weight=(-4.9, -3.8), bias=-1.5)
        self.fine = Blur(2.0)
        self.ground = Blur(9.0)

    def measure(self, density: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Log nuclei per 1000 um2; log variance by squared mean."""
        fine = self.fine(density)
        above = fine - self.ground(density)
        # A peak needs its neighbors: none is seen within 2 px of the image's edge.
        inner = fine[..., 2:-2, 2:-2]
        top = highest(highest(fine, 5, down=0, right=1), 5, down=1, right=0)
        found = (inner == top) & (above > 0.2 * fine)[..., 2:-2, 2:-2]
        nuclei = functional.pad(found.to(fine.dtype), (2, 2, 2, 2))
        seen = functional.pad(torch.ones_like(inner[:1]), (2, 2, 2, 2))
        per_1000_um2 = 1000 * self.around(nuclei) / self.around(seen) + 0.05
        variance = self.around(above**2) + FLOOR
        return torch.log(per_1000_um2), torch.log(variance / mean**2)


DEMO_ARCHITECTURES: dict[str, type[nn.Module]] = {
    "NucleusScale": NucleusScale,
    "NucleusTexture": NucleusTexture,
    "NucleusDensity": NucleusDensity,
}
