"""Interface of the original networks for loading Keras files."""

from torch import nn


class OriginalNetwork(nn.Module):
    """Encoder and decoder whose modules have the Keras layer names.

    Below ``encoder`` and ``decoder``, a module's path with "_" for "." is its Keras
    layer name, except for layers that Keras numbered.
    """

    encoder: nn.Module
    decoder: nn.Module

    def counted_layers(self) -> list[nn.Module]:
        """Layers with numbered Keras names, in file order."""
        return []
