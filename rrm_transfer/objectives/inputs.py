"""Variations of the clean input that cost no gradient: noise in the ball, and mixtures of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.objectives.base import Step
from rrm_transfer.objectives.labels import Labels, labels_of

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
        own: The first image's labels.
        partners: The second's.
        share: The first image's share, ``(B,)`` in [0, 1].
    """

    x: Tensor
    own: Labels
    partners: Labels
    share: Tensor

    def labels(self, classes: int) -> Labels:
        """Returns the mixed labels; of an image that has none there is nothing in the mixture."""
        parts = ((self.own, self.share), (self.partners, 1 - self.share))
        first, second = ((part * of.weight)[:, None] * F.one_hot(of.target, classes) for of, part in parts)
        return Labels(first + second, torch.ones_like(self.share))


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
    own = labels_of(step)
    partners = Labels(own.target[partner], own.weight[partner])
    return Mixture(weight * step.x + (1 - weight) * step.x[partner], own, partners, share)


def _symmetric_beta(randomness: Randomness, alpha: float) -> Tensor:
    """Draws from Beta(α, α), ``(B,)``, by Jöhnk's method (Metrika 8, 1964).

    Of pairs ``(u^(1/α), v^(1/α))`` with uniform u and v, the first whose sum is at most 1 gives its first
    part over the sum. For α of at most 1 a pair is refused with probability 1/2 or less.
    """
    powers = randomness.uniform("mixup share", (_BETA_TRIALS, 2)).double() ** (1 / alpha)
    total = powers.sum(2)
    accepted = ((total <= 1) & (total > 0)).to(torch.int8).argmax(1, keepdim=True)
    return (powers[:, :, 0].gather(1, accepted) / total.gather(1, accepted).clamp(min=1e-300))[:, 0]
