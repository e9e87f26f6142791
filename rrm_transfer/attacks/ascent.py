"""Projected gradient ascent in pixel space: the one loop of training attacks and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel

PerSampleLoss = Callable[[Tensor], Tensor]
"""Maps pixels ``(B, C, H, W)`` to what an attack ascends, one value per sample, ``(B,)``."""

Start = Literal["uniform", "gaussian", "noise", "none"]


def ascend(
    x: Tensor,
    *,
    loss: PerSampleLoss,
    threat: ThreatModel,
    steps: int,
    step_size: float,
    delta: Tensor,
    clip: bool = True,
) -> Tensor:
    """Moves ``delta`` uphill on ``loss``.

    Only the gradient with respect to ``delta`` is computed: weights get none. The caller chooses precision
    and puts the model in evaluation mode.

    Args:
        x: Pixels in [0, 1], ``(B, C, H, W)``.
        loss: Maps pixels to what is ascended, ``(B,)``.
        threat: Gives the direction of a step and the ball.
        steps: 0 or more.
        step_size: In pixel units, measured in the threat's norm.
        delta: The start, of ``x``'s shape.
        clip: Whether each step ends in the ball; ``x + delta`` stays in [0, 1] in any case.

    Returns:
        The last ``delta``, detached.
    """
    delta = delta.detach()
    for _ in range(steps):
        delta.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(x + delta).sum(), delta)
        moved = delta.detach() + step_size * threat.ascent(gradient)
        delta = threat.project(x, moved) if clip else _into_image(x, moved)
    return delta


@dataclass(frozen=True)
class InnerAttack:
    """How the adversarial inputs of a training step are made.

    Attributes:
        steps: Steps of the ascent.
        step_size: Size of one step in units of eps.
        start: ``uniform`` in the ball; ``gaussian`` with standard deviation ``start_scale`` in pixel units;
            ``noise``, uniform in ``start_scale`` times the ball; ``none``, at the image.
        start_scale: Size of a ``gaussian`` or ``noise`` start.
        clip: Whether each step ends in the ball (N-FGSM's does not); the image range holds in any case.
    """

    steps: int
    step_size: float
    start: Start = "uniform"
    start_scale: float = 1.0
    clip: bool = True

    def perturb(self, x: Tensor, loss: PerSampleLoss, threat: ThreatModel, randomness: Randomness) -> Tensor:
        """Moves images uphill on ``loss``.

        Args:
            x: Pixels in [0, 1], ``(B, C, H, W)``.
            loss: What is ascended.
            threat: The ball that the perturbation stays in.
            randomness: The batch's random numbers.

        Returns:
            Pixels in [0, 1], ``(B, C, H, W)``, detached.
        """
        delta = ascend(
            x,
            loss=loss,
            threat=threat,
            steps=self.steps,
            step_size=self.step_size * threat.eps,
            delta=self._start(x, threat, randomness),
            clip=self.clip,
        )
        return (x + delta).clamp(0.0, 1.0)

    def _start(self, x: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        match self.start:
            case "uniform":
                return threat.random_start(x, randomness, "inner")
            case "noise":
                ball = threat.with_eps(self.start_scale * threat.eps)
                return ball.random_start(x, randomness, "inner")
            case "gaussian":
                drawn = randomness.normal("inner", tuple(x.shape[1:])).to(x.dtype)
                return _into_image(x, self.start_scale * drawn)
            case "none":
                return torch.zeros_like(x)


def _into_image(x: Tensor, delta: Tensor) -> Tensor:
    return (x + delta).clamp(0.0, 1.0) - x
