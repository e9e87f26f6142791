"""The transfer attack: adversarial images of one model, tried on another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.attacks.ascent import ascend
from rrm_transfer.attacks.pgd import default_step_size
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel


@torch.no_grad()
def transfer(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    surrogate: Callable[[Tensor], Tensor],
    threat: ThreatModel,
    steps: int,
    restarts: int,
    randomness: Randomness,
) -> Tensor:
    """Climbs the surrogate's cross-entropy and asks the attacked model about the last points only.

    The ascent goes on after the surrogate is fooled: a point that only just fools it seldom fools another.

    Args:
        logits: The attacked model, in evaluation mode and float32.
        x: Pixels in [0, 1], ``(B, C, H, W)``.
        y: Class indices, ``(B,)``.
        surrogate: The model whose gradients are used.
        threat: The ball to search.
        steps: Per restart, 1 or more.
        restarts: 1 or more.
        randomness: Holds the images' indices.

    Returns:
        Pixels in [0, 1] within the ball, ``(B, C, H, W)``: the first misclassified point, else the last one.
    """
    x_adv = x.clone()
    alive = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        if not len(alive):
            break
        images, labels = x[alive], y[alive]
        drawn = replace(randomness, index=randomness.index[alive])

        def loss(points: Tensor, labels: Tensor = labels) -> Tensor:
            return F.cross_entropy(surrogate(points), labels, reduction="none")

        delta = ascend(
            images,
            loss=loss,
            threat=threat,
            steps=steps,
            step_size=default_step_size(threat.eps, steps),
            delta=threat.random_start(images, drawn, f"transfer/{restart}"),
        )
        points = (images + delta).clamp(0.0, 1.0)
        x_adv[alive] = points
        alive = alive[logits(points).argmax(1) == labels]
    return x_adv
