"""What is minimised: one class per method."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.objectives.arguments import Argument, Problem, describe, explanation, read_arguments
from rrm_transfer.objectives.base import Objective

OBJECTIVES = {
    "natural": "natural:Natural",
    "rrm": "matching:RRM",
    "rrm-adv": "matching:RRMAdv",
    "kd": "matching:KD",
    "kd-adv": "matching:KDAdv",
    "ard": "distillation:ARD",
    "iad": "distillation:IAD",
    "rslad": "distillation:RSLAD",
    "adaad": "distillation:AdaAD",
    "igdm": "distillation:IGDM",
    "pgd-at": "adversarial:PGDAT",
    "fast-at": "adversarial:FastAT",
    "n-fgsm": "adversarial:NFGSM",
    "free-at": "free:FreeAT",
    "rdt": "rdt:RDT",
    "trades": "trades:TRADES",
    "gradnorm": "gradients:GradNorm",
}
"""Names to module and class in this package, imported on first use."""

PLAIN = "natural"
"""Plain training: what every cost is measured in, and what a control is trained with."""


def objective_class(name: str) -> type[Objective]:
    """Imports and returns the objective called ``name``.

    Raises:
        UserError: There is none; the message lists the alternatives.
    """
    if name not in OBJECTIVES:
        raise UserError(
            "Unknown objective.",
            received=name,
            allowed=sorted(OBJECTIVES),
            hint=did_you_mean(name, OBJECTIVES),
        )
    module, _, attribute = OBJECTIVES[name].partition(":")
    return cast(type[Objective], getattr(importlib.import_module(f"{__name__}.{module}"), attribute))


def objective_arguments(name: str) -> list[Argument]:
    """Returns the arguments of the objective called ``name``, with defaults and help.

    Raises:
        UserError: There is no such objective.
    """
    return describe(objective_class(name))


def objective_explanation(name: str) -> list[str]:
    """Returns the equation and the source of the objective called ``name``, in paragraphs.

    Raises:
        UserError: There is no such objective.
    """
    return explanation(objective_class(name))


def argument_problems(name: str, arguments: Mapping[str, object]) -> list[Problem]:
    """Returns every argument that is unknown, of another type or out of range.

    Raises:
        UserError: There is no such objective.
    """
    return read_arguments(name, objective_class(name), arguments)[1]


def build_objective(name: str, **arguments: object) -> Objective:
    """Builds the objective called ``name``.

    Args:
        name: A key of ``OBJECTIVES``.
        arguments: Its arguments; numbers may also be written as ``0.5`` or ``1/3`` in text.

    Raises:
        UserError: There is no such objective, or an argument is unknown, of another type or out of range.
    """
    component = objective_class(name)
    converted, problems = read_arguments(name, component, arguments)
    if problems:
        raise problems[0].error
    return component(**converted)
