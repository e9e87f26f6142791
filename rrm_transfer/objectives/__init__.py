"""What is minimised: one class per method."""

from __future__ import annotations

from collections.abc import Mapping

from rrm_transfer.core.registry import Registry
from rrm_transfer.objectives.arguments import Argument, Problem, describe, explanation, read_arguments
from rrm_transfer.objectives.base import Objective

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    {
        "natural": "rrm_transfer.objectives.natural:Natural",
        "rrm": "rrm_transfer.objectives.rrm:RRM",
        "rrm-adv": "rrm_transfer.objectives.rrm:RRMAdv",
        "kd": "rrm_transfer.objectives.kd:KD",
        "kd-adv": "rrm_transfer.objectives.kd:KDAdv",
        "ard": "rrm_transfer.objectives.distillation:ARD",
        "iad": "rrm_transfer.objectives.distillation:IAD",
        "rslad": "rrm_transfer.objectives.distillation:RSLAD",
        "adaad": "rrm_transfer.objectives.distillation:AdaAD",
        "igdm": "rrm_transfer.objectives.distillation:IGDM",
        "pgd-at": "rrm_transfer.objectives.adversarial:PGDAT",
        "fast-at": "rrm_transfer.objectives.adversarial:FastAT",
        "n-fgsm": "rrm_transfer.objectives.adversarial:NFGSM",
        "free-at": "rrm_transfer.objectives.free:FreeAT",
        "rdt": "rrm_transfer.objectives.rdt:RDT",
        "trades": "rrm_transfer.objectives.trades:TRADES",
    },
)

PLAIN = "natural"
"""Plain training: what every cost is measured in, and what a control is trained with."""


def objective_arguments(name: str) -> list[Argument]:
    """Returns the arguments of the objective called ``name``, with defaults and help.

    Raises:
        UserError: There is no such objective.
    """
    return describe(OBJECTIVES.get(name))


def objective_explanation(name: str) -> list[str]:
    """Returns the equation and the source of the objective called ``name``, in paragraphs.

    Raises:
        UserError: There is no such objective.
    """
    return explanation(OBJECTIVES.get(name))


def argument_problems(name: str, arguments: Mapping[str, object]) -> list[Problem]:
    """Returns every argument that is unknown, of another type or out of range.

    Raises:
        UserError: There is no such objective.
    """
    return read_arguments(OBJECTIVES.get(name), arguments)[1]


def build_objective(name: str, **arguments: object) -> Objective:
    """Builds the objective called ``name``.

    Args:
        name: A key of ``OBJECTIVES``.
        arguments: Its arguments; numbers may also be written as ``0.5`` or ``1/3`` in text.

    Raises:
        UserError: There is no such objective, or an argument is unknown, of another type or out of range.
    """
    component = OBJECTIVES.get(name)
    converted, problems = read_arguments(component, arguments)
    if problems:
        raise problems[0].error
    return component(**converted)
