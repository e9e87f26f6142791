"""Labels from the teacher, for the images that have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from rrm_transfer.objectives.base import Objective, Step, Term, teacher_inputs


class TeacherLabels(Objective):
    """Another objective, for which ``argmax T(x)`` is the label of an image that has none.

    Self-training with the teacher's hard answers: Carmon et al., "Unlabeled Data Improves Adversarial
    Robustness", NeurIPS 2019, arXiv 1905.13736, section 3, where a standard network answers once for each
    image; here the teacher does on the augmented image, which a cache can hold.

    Args:
        objective: Sees a label on every image.
    """

    labels_optional = True

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        asks = objective.needs & {"features", "logits"}
        self.needs = objective.needs | {"logits"}
        self.teacher_sees = teacher_inputs(clean=True, other=bool(asks) and "other" in objective.teacher_sees)
        self.layers = objective.layers
        self.inversion = objective.inversion
        self.borrows_classifier = objective.borrows_classifier
        self.replays = objective.replays
        self.attacks = objective.attacks
        self.anchor = objective.anchor
        self.differentiates_twice = objective.differentiates_twice

    def __call__(self, step: Step) -> list[Term]:
        return self.objective(cast(Step, _Answered(step)))

    def state_dict(self) -> dict[str, Tensor]:
        return self.objective.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.objective.load_state_dict(state)


class _Answered:
    """A step whose images all have labels."""

    def __init__(self, step: Step) -> None:
        self._step = step
        answers = step.clean_teacher().logits.argmax(1)
        self.y = torch.where(step.label_weight > 0, step.y, answers)
        self.label_weight = torch.ones_like(step.label_weight)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)
