"""Bounds on networks that a file or an option describes: a few words must not take a machine's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import UninitializedParameter

from rrm_transfer.core.errors import UserError

MODULES = 1 << 12
"""That a network has at most; timm's largest have half of that."""
PARAMETERS = 10**10
"""That a network has at most; timm's largest have half of that."""
_LARGEST = 10**5
"""Of a whole number that shapes a network."""


@contextmanager
def bounded(args: Mapping[str, object], *, parameters: int = PARAMETERS) -> Iterator[None]:
    """Ends the construction of a network in the block when it becomes too large.

    Args:
        args: For its constructor.
        parameters: That it may have, where less than in any network is known.

    Raises:
        UserError: It becomes too large.
    """
    for name, value in args.items():
        if not _is_modest(value):
            raise UserError(
                "An argument of the network is too large.",
                received=f"{name}={value}",
                allowed=f"whole numbers up to {_LARGEST:,}",
            )
    modules = numbers = 0

    def count_module(module: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        modules += child is not None
        if modules > MODULES:
            raise _too_large(f"more than {MODULES:,} modules")

    def count_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal numbers
        if parameter is not None and not isinstance(parameter, UninitializedParameter):
            numbers += parameter.numel()
        if numbers > parameters:
            raise _too_large(f"more than {parameters:,} parameters")

    hooks = [
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_modest(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_modest, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_modest, value))
    return not isinstance(value, int) or abs(value) <= _LARGEST


def _too_large(received: str) -> UserError:
    return UserError("The network becomes too large.", received=received)
