"""How much each image counts in a loss, by how certain the teacher is of it."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.outputs import at_least_float32

_TINY = 1e-8


class Emphasis(NamedTuple):
    """How much each image's matching counts, ``(B,)``, or one number for all.

    Attributes:
        adversarial: On the adversarial image.
        clean: On the clean image beside it.
    """

    adversarial: Tensor | float = 1.0
    clean: Tensor | float = 1.0


def entropy_weights(logits: Tensor) -> Emphasis:
    """Returns ``H − min H`` for the adversarial images and ``1 − (H − min H) / (max H − min H)`` beside them.

    ``H`` is the entropy of each answer in nats; minimum and maximum are those of the images at hand. Lee and
    Chung, "Sample-wise Adaptive Weighting for Transfer Consistency in Adversarial Distillation" (SAAD), TMLR
    2026, arXiv 2512.10275, as in its official code with Shannon's entropy, whose factor of 5 is left to the
    weight of the loss.

    Args:
        logits: The teacher's, ``(B, classes)``.
    """
    log_p = F.log_softmax(at_least_float32(logits), dim=1)
    entropy = -(log_p.exp() * log_p).sum(1)
    above = entropy - entropy.min()
    return Emphasis(above, 1 - above / above.max().clamp(min=_TINY))
