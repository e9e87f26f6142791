"""What of a training phase must be kept to go on exactly, as named tensors and facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from rrm_transfer.runtime.parallel import in_the_form_of, whole

_STUDENT = "student/"
_OPTIMIZER = "optimizer/"
_OF_THE_RECIPE = ("lr", "initial_lr", "weight_decay")
"""Settings of a parameter group that a resumed run may have changed."""


def pack(
    student: nn.Module, optimizer: Optimizer, parts: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the facts of a checkpoint; all processes call it together.

    Args:
        student: The network in training.
        optimizer: Of its weights.
        parts: Tensors of what else has a state, by its name.
    """
    tensors = {_STUDENT + name: whole(value) for name, value in student.state_dict().items()}
    for part, state in parts.items():
        tensors |= {f"{part}/{name}": value for name, value in state.items()}
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}/{key}"] = whole(value)
            else:
                scalars.setdefault(str(index), {})[key] = value
    return tensors, {"scalars": scalars, "groups": state["param_groups"]}


def unpack(
    student: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Puts back what ``pack`` took from the student and the optimiser."""
    own = student.state_dict()
    student.load_state_dict(
        {name: in_the_form_of(value, own[name]) for name, value in _under(_STUDENT, tensors).items()}
    )
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in facts["scalars"].items()
    }
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, value in _under(_OPTIMIZER, tensors).items():
        index, key = name.split("/", 1)
        weight = weights[int(index)]
        if value.shape == weight.shape:
            value = in_the_form_of(value, weight)  # noqa: PLW2901
        state.setdefault(int(index), {})[key] = value
    groups = [
        {**saved, **{key: group[key] for key in _OF_THE_RECIPE if key in group}}
        for saved, group in zip(facts["groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Returns the tensors of one of the other parts that ``pack`` was given."""
    return _under(f"{name}/", tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
