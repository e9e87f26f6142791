"""What an objective is given: a student made ready for its teacher, then one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import InnerAttack, PerSampleLoss, frozen
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs, at_least_float32
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.base import Objective
from rrm_transfer.students.student import Student
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.timing import Clock, untimed

Autocast = Callable[[], AbstractContextManager[Any]]
AttackMode = Literal["evaluation", "training"]


def pair(
    student: Student, teacher: Teacher, objective: Objective, *, seed: int, takes_classifier: bool
) -> None:
    """Gives the student the teacher's classifier, and has both return layers where the objective says so.

    Args:
        student: With its initial weights.
        teacher: That it is to learn from.
        objective: What will be minimised.
        seed: Seeds the initial weights of the layers' projections.
        takes_classifier: Whether the student's classifier starts as the teacher's, where that has one. The
            objective may have it stay so.

    Raises:
        UserError: The teacher has no classifier that could stay, one of the two no such layer, or the student
            was given dropout in front of the representation that is matched.
    """
    if "features" in objective.needs and student.model_args.get("drop_rate"):
        # timm drops before the classifier, so what is matched would have random holes that no teacher has.
        raise UserError(
            "The student's dropout stands in front of the representation that is matched.",
            received=f"drop_rate={student.model_args['drop_rate']}",
            allowed="drop_rate=0; drop_path_rate is free",
            hint="leave out --student-arg drop_rate, or take an objective on logits alone, such as kd",
        )
    frozen_classifier = "frozen_classifier" in objective.needs
    classifier = teacher.classifier() if takes_classifier or frozen_classifier else None
    if classifier is not None:
        student.adopt_classifier(*classifier, frozen=frozen_classifier)
    elif frozen_classifier:
        raise UserError(
            "The objective takes the teacher's classifier, and it has none.", received=teacher.name
        )
    if objective.layers:
        widths = teacher.read_layers([layers.teacher for layers in objective.layers])
        student.read_layers([layers.student for layers in objective.layers], widths, seed=seed)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts ``module`` into evaluation mode for the block; if it is in it, its parts are not visited."""
    if not module.training:
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()


@dataclass
class TrainingStep:
    """Implements ``rrm_transfer.objectives.base.Step``.

    Attributes:
        autocast: Makes the context of every call of a network.
        prepared: The student as accelerate prepared it; gradients are synchronised through it.
        bare: The same student without the wrapper, for attacks.
        frozen: The teacher, where there is one and it is asked.
        clean: The teacher's outputs on ``x``, where they are known.
        anchored: The objective's anchor, where it has one.
        clock: Wraps the parts whose time is of interest.
        attack_mode: Of the student where it is attacked.
    """

    autocast: Autocast
    prepared: nn.Module
    bare: nn.Module
    frozen: nn.Module | None
    x: Tensor
    y: Tensor
    label_weight: Tensor
    threat: ThreatModel
    randomness: Randomness
    progress: float
    first: int
    clean: Outputs | None = None
    anchored: nn.Module | None = None
    clock: Clock = untimed
    attack_mode: AttackMode = "evaluation"

    def student(self, x: Tensor) -> Outputs:
        with self.clock("student forward"):
            return self._run(self.prepared, x)

    def student_eval(self, x: Tensor) -> Outputs:
        with self.clock("student forward"), self._attacked():
            return self._run(self.bare, x)

    def clean_teacher(self) -> Outputs:
        if self.clean is None:
            self.clean = self.teacher(self.x)
        return self.clean

    def anchor(self) -> Outputs:
        if self.anchored is None:
            raise ValueError("this run has no anchor")
        with self.clock("teacher"):
            return infer(self.anchored, self.x, self.autocast)

    def teacher(self, x: Tensor) -> Outputs:
        if self.frozen is None:
            raise ValueError("this run has no teacher")
        with self.clock("teacher"):
            if x.requires_grad:
                return self._run(self.frozen, x)
            return infer(self.frozen, x, self.autocast)

    def attack(self, loss: PerSampleLoss, inner: InnerAttack) -> Tensor:
        # The mode is set for the whole ascent, as activations that are computed again in a backward pass must
        # be of the same mode.
        # Weights are frozen because compiled code computes their gradients whether asked for or not.
        with self.clock("attack"), self._attacked(), frozen(self.bare):
            return inner.perturb(self.x, loss, self.threat, self.randomness)

    def _attacked(self) -> AbstractContextManager[None]:
        # Evaluation mode: the network that will be deployed is attacked, and running statistics follow the
        # final inputs alone. So do TRADES, RSLAD, AdaAD and Madry's library; ARD, IAD, FGSM-RS, N-FGSM and
        # the RRM code attack in training mode. Pang et al. (ICLR 2021, arXiv 2010.00467) find more clean
        # accuracy and about as much robustness in evaluation mode.
        return evaluation_mode(self.bare) if self.attack_mode == "evaluation" else nullcontext()

    def _run(self, module: nn.Module, x: Tensor) -> Outputs:
        return run(module, x, self.autocast)


def run(module: nn.Module, x: Tensor, autocast: Autocast) -> Outputs:
    """Returns a network's outputs in float32 or better: losses are not computed in half precision."""
    with autocast():
        outputs: Outputs = module(x)
    return outputs.map(at_least_float32)


def infer(module: nn.Module, x: Tensor, autocast: Autocast = nullcontext) -> Outputs:
    """Returns the same without keeping anything for a backward pass."""
    with torch.inference_mode():
        outputs = run(module, x, autocast)
    # A loss may not keep tensors of inference mode, ordinary copies it may.
    return outputs.map(Tensor.clone)
