"""What an original network shows to whoever fills it from a Keras file."""

from torch import nn


class OriginalNetwork(nn.Module):
    """An encoder and a decoder whose modules bear the names of the Keras layers.

    Below ``encoder`` and ``decoder`` a module's path, with "_" for ".", is the name of
    its layer, those apart that Keras named by counting.
    """

    encoder: nn.Module
    decoder: nn.Module

    def counted_layers(self) -> list[nn.Module]:
        """The layers that Keras named by counting, in a file's order."""
        return []
