"""From an architecture's name to a network."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.core.stems import base_architecture, create_network

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


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
        return "stock" if self.architecture == base_architecture(self.architecture) else "cifar"


def is_factory(text: str) -> bool:
    """Tells whether ``text`` has the form ``package.module:factory``."""
    return _FACTORY.fullmatch(text) is not None


def is_known(architecture: str) -> bool:
    """Tells whether the name is timm's or this package's."""
    return bool(timm.is_model(base_architecture(architecture)))


def known_architectures() -> list[str]:
    """Returns every name that can be built."""
    return list(timm.list_models())


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
        return _factory(name, allow_code)(**args)
    if not is_known(name):
        raise UserError(
            "Unknown teacher architecture.", received=name, hint=did_you_mean(name, known_architectures())
        )
    try:
        return create_network(name, **args)
    except (TypeError, ValueError, AssertionError, RuntimeError) as problem:
        raise UserError(f"{name} cannot be built: {problem}", received=args) from problem


def _factory(location: str, allow_code: bool) -> Callable[..., nn.Module]:
    if not allow_code:
        raise UserError(
            "A teacher that runs code of yours must be named on the command line, not in a recipe.",
            received=location,
            hint=f"--teacher-arch {location}",
        )
    module, _, attribute = location.partition(":")
    try:
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise UserError(f"The factory cannot be imported: {problem}", received=location) from problem
    return factory
