"""The one place where a loss meets the labels of a batch, some of whose images may have none."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rrm_transfer.objectives.base import Step
from rrm_transfer.objectives.divergences import cross_entropy


class Labels(NamedTuple):
    """The targets of a batch's cross-entropy.

    Attributes:
        target: Class indices ``(B,)``, or how much there is of each class, ``(B, classes)``.
        weight: How much each sample counts, ``(B,)``; 0 without a label. See ``Step.label_weight``.
    """

    target: Tensor
    weight: Tensor

    def cross_entropy(self, logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Returns the cross-entropy of each sample, ``(B,)``, whose mean is that over the labelled ones."""
        return self.weight * cross_entropy(logits, self.target, label_smoothing)


def labels_of(step: Step) -> Labels:
    """Returns the labels of a batch."""
    return Labels(step.y, step.label_weight)
