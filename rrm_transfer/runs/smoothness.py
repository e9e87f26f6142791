"""Whether a student suits an objective that differentiates it twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.objectives.gradients import differentiable
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.runs.trainables import TrainablePlan
from rrm_transfer.runtime.progress import Narrator

_aten = torch.ops.aten
_PIECEWISE_LINEAR = {
    *(_aten.relu, _aten.relu_, _aten.hardtanh, _aten.hardtanh_, _aten.leaky_relu, _aten.leaky_relu_)
}
_SMOOTH = "a student with GELU or SiLU; many architectures have them with --student-arg act_layer=gelu"


class _Activations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Counts piecewise linear activations, whether they are modules or function calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += func._overloadpacket in _PIECEWISE_LINEAR
        return func(*args, **(kwargs or {}))


def piecewise_linear_activations(network: nn.Module, images: Tensor) -> int:
    """Counts the activations of a network whose second derivative is 0.

    Args:
        network: On the meta device.
        images: On the meta device, ``(B, C, H, W)``.
    """
    found = _Activations()
    with found, torch.no_grad():
        network(images)
    return found.count


def missing_derivative(network: nn.Module, images: Tensor) -> str | None:
    """Returns which second derivative torch does not have, in its own words; None where it has all.

    Args:
        network: On the meta device; maps pixels to ``Outputs``.
        images: On the meta device, ``(B, C, H, W)``.
    """
    with differentiable(images) as x:
        logits = network(x).logits
    try:
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        gradient.sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "derivative for" in str(error):
            return str(error)
    return None


def check_smooth(recipe: ResolvedRecipe, student: TrainablePlan, narrator: Narrator) -> None:
    """Refuses what has no second derivatives, and warns of activations with which there is little in them.

    Raises:
        UserError: The student has none, is compiled, or computes its activations again.
    """
    name = recipe.objective.name
    problems = [
        (f"train.{option}", f"goes without {name} with these arguments, which differentiates twice")
        for option in ("compile", "gradient_checkpointing")
        if getattr(recipe.train, option)
    ]
    if problems:
        raise RecipeError(problems)
    side = recipe.data.image_size
    network, images = student.outline(), torch.empty(2, student.channels, side, side, device="meta")
    missing = missing_derivative(network, images)
    if missing is not None:
        raise UserError(
            f"{name} with these arguments differentiates the student twice, which torch cannot do: {missing}",
            received=student.name,
            hint=_SMOOTH,
        )
    kinks = piecewise_linear_activations(network, images)
    if kinks:
        narrator.warn(
            f"{kinks} activations of {student.name} are piecewise linear (ReLU or the like): a penalty on "
            f"the gradient of the input hardly trains such a network; take {_SMOOTH}"
        )
