"""What training costs in a unit that does not depend on the machine or the day: passes of plain training.

One pass is what plain training spends on one image: the student's forward pass, and its backward pass to the
weights. Every other cost, of attacks, of the teacher, of a cache of its answers, is counted in floating-point
operations of the calls that a training step really makes, and divided by those of a plain step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, shape_wrapper

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives import PLAIN, build_objective
from rrm_transfer.objectives.base import Objective
from rrm_transfer.training.step import TrainingStep, infer

_IMAGES = 2
"""Of the step that is counted: the fewest that batch norms take."""
_HALVINGS = 10
"""After which the moment when an objective's step changes is known to a thousandth of training."""


@shape_wrapper  # type: ignore[untyped-decorator]
def _convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *args: Any, out_shape: object = None
) -> int:
    """Counts what each gradient of a convolution costs: as much as the convolution itself.

    torch counts the weights' gradient of a grouped convolution as if it had one group: a depthwise network
    would seem several times as expensive to train as it is.
    """
    transposed, mask = bool(args[4]), args[7]
    forward = conv_flop_count(list(x), list(weight), list(grad), transposed=transposed)
    return int(forward) * (bool(mask[0]) + bool(mask[1]))


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's formulas; its own counter follows modules, too, and fails on ``autograd.grad``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, formula = dict(kwargs or {}), _FORMULAS.get(func._overloadpacket)
        if formula is None:
            # In inference mode products arrive as calls such as `linear`, which have no formula.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out


def count_flops(work: Callable[[], object]) -> int:
    """Returns the floating-point operations of matrix products, convolutions and attention in ``work``."""
    counter = _Counter()
    with counter:
        work()
    return counter.flops


@dataclass(frozen=True)
class Passes:
    """The price of training, in passes: 1 is plain training of the same student on one image.

    Attributes:
        epochs: Over the training images.
        per_image: Of the mean training step, per image and epoch: attack, live teacher and replays included.
        before: Per image, before training: a cache of the teacher's answers, images made anew (RDT), or a
            projection that is solved.
    """

    epochs: int
    per_image: float
    before: float = 0.0

    @property
    def total(self) -> float:
        """The whole training, in epochs of plain training; the teacher's own training is not in it."""
        return self.epochs * self.per_image + self.before

    @property
    def ratio(self) -> float:
        """The whole training in units of plain training for as many epochs."""
        return self.total / self.epochs

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Passes:
        """Returns what ``to_json`` has written."""
        return cls(facts["epochs"], facts["per_image"], facts["before"])

    def to_json(self) -> dict[str, float]:
        return {
            "epochs": self.epochs,
            "per_image": round(self.per_image, 4),
            "before": round(self.before, 4),
            "total": round(self.total, 4),
            "ratio": round(self.ratio, 4),
        }


def count_passes(
    student: nn.Module,
    objective: Objective,
    *,
    epochs: int,
    image: tuple[int, int, int],
    threat: ThreatModel,
    teacher: nn.Module | None = None,
    anchor: nn.Module | None = None,
    cached_views: int = 0,
    extra: float = 0.0,
    solved: float = 0.0,
) -> Passes:
    """Counts a recipe's training by taking single steps on copies of its networks, on two images.

    What training does beside its steps is not counted: selection, averaging of weights, evaluation.

    Args:
        student: As it is trained; left unchanged.
        objective: Left unchanged.
        epochs: Over the training images.
        image: Channels, height and width of the student's input.
        threat: Of training.
        teacher: Of the objective.
        anchor: Of the objective.
        cached_views: Versions of each image for which its answers are computed once; 0: it is asked in each
            step.
        extra: Images without labels for each one with, which the cache holds as well. A step costs the same
            whichever of its images have labels, and an epoch has as many steps as without them.
        solved: Part of the images on which both networks are asked before training, to solve a projection.
    """
    student, teacher = copy.deepcopy(student).cpu(), None if teacher is None else copy.deepcopy(teacher).cpu()
    anchor = None if anchor is None else copy.deepcopy(anchor).cpu()
    x = torch.rand(_IMAGES, *image, generator=torch.Generator().manual_seed(0))
    clean = None if teacher is None or not cached_views else infer(teacher, x)
    plain = _step_flops(student, build_objective(PLAIN), x, threat, 0.0)

    def cost(progress: float) -> float:
        counted = copy.deepcopy(objective)
        flops = _step_flops(student, counted, x, threat, progress, teacher, clean, anchor)
        return objective.replays * flops / plain

    before = 0.0
    if teacher is not None:
        before += cached_views * (1 + extra) * count_flops(lambda: infer(teacher, x))
        if solved:
            before += solved * count_flops(lambda: (infer(teacher, x), infer(student, x)))
        if objective.inversion is not None:
            before += objective.inversion.steps * count_flops(lambda: _invert(teacher, x))
    return Passes(epochs, _mean_over_training(cost), before / plain)


def _invert(teacher: nn.Module, x: Tensor) -> None:
    """Takes one step of an inversion: a forward pass, and the gradient of the image."""
    image = x.clone().requires_grad_()
    torch.autograd.grad(teacher(image).features.sum(), image)


def _mean_over_training(cost: Callable[[float], float]) -> float:
    """Averages a step's cost, which changes once at most in the course of training (``begin``)."""
    low, high = 0.0, 1.0
    first, last = cost(low), cost(high - 1e-6)
    if first == last:
        return first
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) == first else (low, middle)
    return first * high + last * (1 - high)


def _step_flops(
    student: nn.Module,
    objective: Objective,
    x: Tensor,
    threat: ThreatModel,
    progress: float,
    teacher: nn.Module | None = None,
    clean: Outputs | None = None,
    anchor: nn.Module | None = None,
) -> int:
    """Counts one training step, backward pass included."""
    student.train()
    index = torch.arange(len(x))
    step = TrainingStep(
        autocast=nullcontext,
        prepared=student,
        bare=student,
        frozen=teacher,
        x=x,
        y=torch.zeros_like(index),
        label_weight=torch.ones(len(x)),
        threat=threat,
        randomness=Randomness(0, 0, index),
        progress=progress,
        first=0,
        clean=clean,
        anchored=anchor,
    )

    def work() -> None:
        terms = objective(step)
        torch.stack([term.weight * term.value for term in terms]).sum().backward()  # type: ignore[no-untyped-call]

    flops = count_flops(work)
    student.zero_grad(set_to_none=True)
    return flops
