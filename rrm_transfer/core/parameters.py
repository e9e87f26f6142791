"""How large a network is."""

from __future__ import annotations

from torch import nn


def count_parameters(network: nn.Module) -> int:
    """Returns how many numbers the weights of a network hold; it may be on the meta device."""
    return sum(weight.numel() for weight in network.parameters())
