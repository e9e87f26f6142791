"""From an architecture's name to a model."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.stems import base_architecture, create_network, has_cifar_stem
from rrm_transfer.teachers.networks.plain import AlexNet, CifarVGG
from rrm_transfer.teachers.networks.preact_resnet import PreActResNet18
from rrm_transfer.teachers.networks.wide_resnet import DeepMindWideResNet, TradesWideResNet

_FACTORY = re.compile(r"([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
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
        own_code: Whether ``architecture`` is code that the user named. A file's words never are, whatever
            their form.
    """

    architecture: str
    args: Mapping[str, Any] = field(default_factory=dict)
    own_code: bool = False

    @property
    def stem(self) -> str:
        """``cifar`` or ``stock``."""
        return "cifar" if has_cifar_stem(self.architecture) else "stock"


def is_factory(text: str) -> bool:
    """Tells whether ``text``, in the user's own words, is ``package.module:factory``.

    The package must be there to import, which is told without importing it, and no path may have this name.
    """
    match = _FACTORY.fullmatch(text)
    if match is None or os.path.exists(text):  # noqa: PTH110  # Path raises on texts that are long
        return False
    return _is_importable(match[1])


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # __main__ has no specification
        return False


def is_timm(architecture: str) -> bool:
    """Tells whether timm builds it, a CIFAR stem aside; a tag must be one that timm knows."""
    name = base_architecture(architecture)
    stem, tag, _ = name.partition(".")
    return bool(timm.is_model(stem)) and (not tag or name in get_arch_pretrained_cfgs(stem))


def is_known(architecture: str) -> bool:
    """Tells whether the name is timm's or this package's."""
    return architecture in NETWORKS or _wide(architecture) is not None or is_timm(architecture)


def known_architectures() -> list[str]:
    """Returns the names that can be built."""
    return [*NETWORKS, *WIDE_FORMS, *timm.list_models()]


def build_model(blueprint: Blueprint, *, allow_code: frozenset[str] = frozenset()) -> nn.Module:
    """Builds a model with random weights; `adapt` makes a network of it.

    Args:
        blueprint: What to build.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.

    Raises:
        UserError: The architecture is unknown, or its constructor does not take the arguments.
    """
    name, args = blueprint.architecture, dict(blueprint.args)
    if blueprint.own_code:
        return _made_by(name, allow_code)
    if not is_known(name):
        raise UserError(
            "Unknown architecture.", received=name, hint=did_you_mean(name, known_architectures())
        )
    construct = NETWORKS.get(name) or _wide(name) or partial(create_network, name)
    try:
        return construct(**args)
    except UserError:
        raise
    except Exception as problem:  # what timm's constructors raise on arguments that make no sense
        raise UserError(
            f"{name} cannot be built: {type(problem).__name__}: {problem}", received=args
        ) from problem


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


def _made_by(location: str, allow_code: frozenset[str]) -> nn.Module:
    """Calls a factory.

    Raises:
        UserError: It may not be called, cannot be, fails, or makes no network.
    """
    if location not in allow_code:
        raise UserError(
            "A teacher that runs code must be named on the command line, or the recipe's code be allowed.",
            received=location,
            hint=f"--teacher-arch {location}, or --allow-code if you trust the recipe",
        )
    module, _, attribute = location.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as problem:  # whatever the user's module raises
        raise UserError(
            f"The factory cannot be imported: {type(problem).__name__}: {problem}", received=location
        ) from problem
    try:
        network = factory()
    except UserError:
        raise
    except Exception as problem:  # whatever the user's function raises
        raise UserError(
            f"The factory fails: {type(problem).__name__}: {problem}",
            received=location,
            allowed="a function without arguments",
        ) from problem
    if not isinstance(network, nn.Module):
        raise UserError(
            f"The factory makes no network but a {type(network).__name__}.",
            received=location,
            allowed="a function that returns a torch.nn.Module",
        )
    return network
