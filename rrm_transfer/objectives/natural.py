"""Plain training."""

from __future__ import annotations

from dataclasses import dataclass

from rrm_transfer.objectives.arguments import Share
from rrm_transfer.objectives.base import Objective, Step, Term
from rrm_transfer.objectives.labels import labels_of


@dataclass(kw_only=True)
class Natural(Objective):
    """Cross-entropy on clean images: ``CE(S(x), y)``.

    Args:
        label_smoothing: Share of each label that is spread evenly over all classes.
    """

    label_smoothing: Share = 0.0

    def __call__(self, step: Step) -> list[Term]:
        loss = labels_of(step).cross_entropy(step.student(step.x).logits, self.label_smoothing)
        return [Term("ce", 1.0, loss.mean())]
