"""What a model returns to the training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Returns half-precision values as float32 and all others as they are."""
    return values.float() if values.element_size() < 4 else values


class Outputs(NamedTuple):
    """Logits and the representation that the classifier read.

    Attributes:
        logits: ``(B, classes)``.
        features: ``(B, width)``; a student's are already projected to the teacher's width.
        intermediates: The intermediate layers that were asked for, ``(B, channels)`` each, averaged over
            positions; a student's are already projected to those of the teacher.
    """

    logits: Tensor
    features: Tensor
    intermediates: tuple[Tensor, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """Returns the outputs with every tensor changed in the same way."""
        return Outputs(change(self.logits), change(self.features), tuple(map(change, self.intermediates)))
