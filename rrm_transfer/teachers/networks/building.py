"""From an architecture's name to a model."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.stems import base_architecture, create_network, has_cifar_stem
from rrm_transfer.teachers.networks.plain import AlexNet, CifarVGG
from rrm_transfer.teachers.networks.preact_resnet import PreActResNet18
from rrm_transfer.teachers.networks.wide_resnet import DeepMindWideResNet, TradesWideResNet

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_WIDE = re.compile(r"wrn_(\d+)_(\d+)_(trades|deepmind_relu|deepmind_silu)")

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "preact_resnet18": partial(PreActResNet18, final_norm=True, shortcut_of="activation"),
    "preact_resnet18_no_norm": partial(PreActResNet18, final_norm=False, shortcut_of="activation"),
    "preact_resnet18_input_shortcut": partial(PreActResNet18, final_norm=False, shortcut_of="input"),
    **{f"cifar_vgg{depth}": partial(CifarVGG, depth=depth) for depth in (11, 13, 16, 19)},
    "alexnet": AlexNet,
    "alexnet_2048": partial(AlexNet, width=2048),
}
"""Networks that timm lacks. `wrn_DEPTH_WIDTH_DIALECT` comes beside them."""
WIDE_FORMS = tuple(
    f"wrn_{depth}_{width}_{dialect}"
    for depth, width in ((28, 10), (34, 10), (34, 20), (70, 16))
    for dialect in ("trades", "deepmind_relu", "deepmind_silu")
)
"""The usual Wide ResNets; any depth 6n + 4 and width can be built."""


@dataclass(frozen=True)
class Blueprint:
    """What it takes to build a network.

    Attributes:
        architecture: A timm name (``+cifar_stem`` may follow), a network of this package, or
            ``package.module:factory``.
        args: Keyword arguments of its constructor, ``num_classes`` and ``in_chans`` among them.
    """

    architecture: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """``cifar`` or ``stock``."""
        return "cifar" if has_cifar_stem(self.architecture) else "stock"


def is_factory(text: str) -> bool:
    """Tells whether ``text`` has the form ``package.module:factory``."""
    return _FACTORY.fullmatch(text) is not None


def is_timm(architecture: str) -> bool:
    """Tells whether timm builds it, a CIFAR stem aside."""
    return bool(timm.is_model(base_architecture(architecture)))


def is_known(architecture: str) -> bool:
    """Tells whether the name is timm's or this package's."""
    return architecture in NETWORKS or _wide(architecture) is not None or is_timm(architecture)


def known_architectures() -> list[str]:
    """Returns the names that can be built."""
    return [*NETWORKS, *WIDE_FORMS, *timm.list_models()]


def build_model(blueprint: Blueprint, *, allow_code: bool = False) -> nn.Module:
    """Builds a model with random weights; `adapt` makes a network of it.

    Args:
        blueprint: What to build.
        allow_code: Whether ``package.module:factory`` may be imported and called.

    Raises:
        UserError: The architecture is unknown, or its constructor does not take the arguments.
    """
    name, args = blueprint.architecture, dict(blueprint.args)
    if is_factory(name):
        return _factory(name, allow_code)()
    if not is_known(name):
        raise UserError(
            "Unknown teacher architecture.", received=name, hint=did_you_mean(name, known_architectures())
        )
    construct = NETWORKS.get(name) or _wide(name) or partial(create_network, name)
    try:
        return construct(**args)
    except (TypeError, ValueError, AssertionError, RuntimeError) as problem:
        raise UserError(f"{name} cannot be built: {problem}", received=args) from problem


def _wide(name: str) -> Callable[..., nn.Module] | None:
    match = _WIDE.fullmatch(name)
    if match is None or (int(match[1]) - 4) % 6:
        return None
    depth, width, dialect = int(match[1]), int(match[2]), match[3]
    if dialect == "trades":
        return partial(TradesWideResNet, depth=depth, width=width)
    return partial(
        DeepMindWideResNet,
        depth=depth,
        width=width,
        activation="silu" if dialect == "deepmind_silu" else "relu",
    )


def _factory(location: str, allow_code: bool) -> Callable[..., nn.Module]:
    if not allow_code:
        raise UserError(
            "A teacher that runs code must be named on the command line, or the recipe's code be allowed.",
            received=location,
            hint=f"--teacher-arch {location}, or --allow-code if you trust the recipe",
        )
    module, _, attribute = location.partition(":")
    try:
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise UserError(f"The factory cannot be imported: {problem}", received=location) from problem
    return factory
