"""How far the student is from a target, one value per sample.

The mean over a batch of any of these is what the literature calls ``batchmean``: summed over classes,
averaged over samples. Several official codes average over classes too, which scales their weights by the
number of classes; weights here are always those of the equations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.outputs import at_least_float32

_COSINE_EPS = 1e-6
_TINY = 1e-6


def kl_divergence(target_logits: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns ``τ² · KL(softmax(target / τ) ‖ softmax(logits / τ))``, ``(B,)``.

    The factor keeps gradients comparable between temperatures (Hinton, Vinyals, Dean, arXiv 1503.02531, §2).

    Args:
        target_logits: Logits of the distribution to match, ``(B, classes)``; gradients reach them where
            required.
        logits: Logits of the distribution that is measured, ``(B, classes)``.
        temperature: τ, above 0.
    """
    target = F.log_softmax(at_least_float32(target_logits) / temperature, dim=1)
    measured = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    return temperature**2 * F.kl_div(measured, target, reduction="none", log_target=True).sum(1)


def cosine_distance(features: Tensor, target: Tensor) -> Tensor:
    """Returns ``1 − cos(features, target)``, ``(B,)``, with lengths of at least 1e-6 as in the RRM code."""
    features, target = at_least_float32(features), at_least_float32(target)
    return 1 - F.cosine_similarity(features, target, dim=1, eps=_COSINE_EPS)


def relative_l2(features: Tensor, target: Tensor) -> Tensor:
    """Returns ``‖features − target‖₂ / ‖target‖₂``, ``(B,)``; the denominator is at least 1e-6."""
    features, target = at_least_float32(features), at_least_float32(target)
    length: Tensor = torch.linalg.vector_norm(target, dim=1).clamp(min=_TINY)
    gap: Tensor = torch.linalg.vector_norm(features - target, dim=1)
    return gap / length


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the cross-entropy, ``(B,)``.

    Args:
        logits: ``(B, classes)``.
        target: Class indices ``(B,)`` or probabilities ``(B, classes)``.
        label_smoothing: Share of the target that is spread evenly over all classes.
    """
    return F.cross_entropy(
        at_least_float32(logits), target, reduction="none", label_smoothing=label_smoothing
    )
