"""Networks by name: timm's, and timm's with the stem that CIFAR networks use.

A CIFAR stem (3×3 stride 1, no max-pool) keeps nearly every tensor's shape, so stock timm would load such
weights and answer wrongly. The stem is therefore part of the architecture's name, `resnet18+cifar_stem`,
which stock timm refuses.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from rrm_transfer.core.errors import UserError

CIFAR_STEM = "+cifar_stem"


def has_cifar_stem(architecture: str) -> bool:
    """Tells whether the name asks for the CIFAR stem."""
    return architecture.endswith(CIFAR_STEM)


def base_architecture(architecture: str) -> str:
    """Returns timm's part of the name."""
    return architecture.removesuffix(CIFAR_STEM)


def create_network(architecture: str, **args: Any) -> nn.Module:
    """Builds a network with random weights.

    Args:
        architecture: A timm name, or one with ``+cifar_stem`` after it.
        args: For ``timm.create_model``.

    Raises:
        UserError: The network has no stem that could be replaced.
    """
    import timm

    network = cast(nn.Module, timm.create_model(base_architecture(architecture), **args))
    if has_cifar_stem(architecture):
        _put_cifar_stem(network, architecture)
    return network


def _put_cifar_stem(network: nn.Module, architecture: str) -> None:
    stem, pool = getattr(network, "conv1", None), getattr(network, "maxpool", None)
    if not isinstance(stem, nn.Conv2d) or pool is None:
        raise UserError(
            "Only networks with a single stem convolution and a max-pool, such as timm's ResNets, can have a "
            "CIFAR stem.",
            received=architecture,
        )
    network.conv1 = nn.Conv2d(
        stem.in_channels,
        stem.out_channels,
        kernel_size=3,
        padding=1,
        bias=stem.bias is not None,
        device=stem.weight.device,
    )
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
