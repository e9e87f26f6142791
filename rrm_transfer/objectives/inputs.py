"""Variations of the clean input that cost no gradient: noise in the ball, and mixtures of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.objectives.base import Step

_BETA_TRIALS = 32


def add_noise(step: Step, x: Tensor, scale: float) -> Tensor:
    """Returns ``x`` plus noise that is uniform in ``scale`` times the ball, in [0, 1], ``(B, C, H, W)``."""
    if not scale:
        return x
    ball = step.threat.with_eps(scale * step.threat.eps)
    return (x + ball.random_start(x, step.randomness, "input noise")).clamp(0.0, 1.0)


class Mixture(NamedTuple):
    """Images, each mixed with another of the batch.

    Attributes:
        x: Pixels in [0, 1], ``(B, C, H, W)``.
        y: The first image's class indices, ``(B,)``.
        partner_y: The second's.
        share: The first image's share, ``(B,)`` in [0, 1].
    """

    x: Tensor
    y: Tensor
    partner_y: Tensor
    share: Tensor

    def probabilities(self, classes: int) -> Tensor:
        """Returns the mixed labels, ``(B, classes)``."""
        first, second = F.one_hot(self.y, classes), F.one_hot(self.partner_y, classes)
        return self.share[:, None] * first + (1 - self.share[:, None]) * second


def mix(step: Step, alpha: float) -> Mixture:
    """Mixes each image with another of the batch: ``m · x + (1 − m) · x_partner``, ``m ~ Beta(α, α)``.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412. The share is the
    sample's own; the partner depends on which images are in the batch.

    Args:
        step: The batch.
        alpha: α, above 0 and at most 1.
    """
    partner = torch.argsort(step.randomness.bits("mixup partner", ())[:, None], dim=0)[:, 0]
    share = _symmetric_beta(step.randomness, alpha).to(step.x.dtype)
    weight = share.view(-1, *[1] * (step.x.dim() - 1))
    return Mixture(weight * step.x + (1 - weight) * step.x[partner], step.y, step.y[partner], share)


def _symmetric_beta(randomness: Randomness, alpha: float) -> Tensor:
    """Draws from Beta(α, α), ``(B,)``, by Jöhnk's method (Metrika 8, 1964).

    Of pairs ``(u^(1/α), v^(1/α))`` with uniform u and v, the first whose sum is at most 1 gives its first
    part over the sum. For α of at most 1 a pair is refused with probability 1/2 or less.
    """
    powers = randomness.uniform("mixup share", (_BETA_TRIALS, 2)).double() ** (1 / alpha)
    total = powers.sum(2)
    accepted = ((total <= 1) & (total > 0)).to(torch.int8).argmax(1, keepdim=True)
    return (powers[:, :, 0].gather(1, accepted) / total.gather(1, accepted).clamp(min=1e-300))[:, 0]
