"""What a model returns to the training loop."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Logits and the representation that the classifier read.

    Attributes:
        logits: ``(B, classes)``.
        features: ``(B, width)``; a student's are already projected to the teacher's width.
    """

    logits: Tensor
    features: Tensor
