"""The stem of CIFAR networks, and how weights that need it are kept from stock timm.

A CIFAR stem keeps nearly every tensor's shape, so stock timm would load such weights and answer wrongly.
An export with one therefore has a file name and keys of its own, and an architecture that timm refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from rrm_transfer.core.construction import bounded
from rrm_transfer.core.errors import UserError

STEMS = ("cifar",)
CIFAR_STEM = "+cifar_stem"
"""Follows a timm name where the stem is part of it: ``resnet18+cifar_stem``."""

STOCK_WEIGHTS = "model.safetensors"
MARKED_WEIGHTS = "rrm_student.safetensors"
MARKED_PREFIX = "rrm_transfer."


def weights_name(config: Mapping[str, Any]) -> str:
    """Returns the name of the weights file that stands beside a ``config.json``."""
    return MARKED_WEIGHTS if (config.get("rrm") or {}).get("stem") else STOCK_WEIGHTS


def has_cifar_stem(architecture: str) -> bool:
    """Tells whether the name asks for the CIFAR stem."""
    return architecture.endswith(CIFAR_STEM)


def base_architecture(architecture: str) -> str:
    """Returns timm's part of the name."""
    return architecture.removesuffix(CIFAR_STEM)


_SOURCES = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn",
    "pretrained_model_args", "kwargs_filter", "checkpoint_path", "cache_dir",
)  # fmt: skip


def require_shape_only(args: Mapping[str, object]) -> None:
    """Refuses arguments of ``timm.create_model`` that say what to load: they shape a network, no more.

    Raises:
        UserError: There is one.
    """
    refused = [name for name in _SOURCES if name in args]
    if refused:
        raise UserError(
            "An argument of the network would have other weights loaded.",
            received=", ".join(refused),
            hint="student.start or student.weights in the recipe; --teacher-weights for a teacher",
        )


def create_network(architecture: str, **args: Any) -> nn.Module:
    """Builds a network with random weights.

    Args:
        architecture: A timm name, or one with ``+cifar_stem`` after it.
        args: For ``timm.create_model``.

    Raises:
        UserError: The network has no stem that could be replaced, or would be larger than any known.
    """
    import timm

    require_shape_only(args)
    with bounded(args):
        network = cast(nn.Module, timm.create_model(base_architecture(architecture), **args))
    if has_cifar_stem(architecture):
        replace_stem(network, "cifar", base_architecture(architecture))
    return network


def replace_stem(model: nn.Module, stem: str, name: str) -> None:
    """Gives a ResNet the stem that is usual for CIFAR: a 3×3 convolution of stride 1 and no max-pool.

    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.

    Args:
        model: A network with ``conv1``, ``bn1`` and ``maxpool``, as timm's ResNets have; changed in place.
        stem: ``"cifar"``.
        name: The architecture, for messages.

    Raises:
        UserError: The stem is unknown or the network has another form.
    """
    if stem not in STEMS:
        raise UserError("Unknown stem.", received=stem, allowed=STEMS)
    first, norm = getattr(model, "conv1", None), getattr(model, "bn1", None)
    if not isinstance(first, nn.Module) or norm is None or not hasattr(model, "maxpool"):
        raise UserError(
            "The CIFAR stem fits ResNet-like networks only (those with conv1, bn1 and maxpool).",
            received=name,
            hint="leave the stem argument out: image sizes are adapted to automatically",
        )
    outermost = next(module for module in first.modules() if isinstance(module, nn.Conv2d))
    convolution = nn.Conv2d(outermost.in_channels, norm.num_features, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = convolution
    model.maxpool = nn.Identity()
