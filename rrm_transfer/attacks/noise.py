"""Random noise: what an attacker without any knowledge finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel


@torch.no_grad()
def random_noise(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    draws: int,
    randomness: Randomness,
) -> Tensor:
    """Tries points drawn uniformly from the ball until one is misclassified.

    Args:
        logits: The attacked model, in evaluation mode and float32.
        x: Pixels in [0, 1], ``(B, C, H, W)``.
        y: Class indices, ``(B,)``.
        threat: The ball to search.
        draws: Points per image.
        randomness: Holds the images' indices.

    Returns:
        Pixels in [0, 1] within the ball, ``(B, C, H, W)``: the first misclassified point, else the last one.
    """
    x_adv = x.clone()
    alive = torch.arange(len(x), device=x.device)
    for draw in range(draws):
        if not len(alive):
            break
        drawn = replace(randomness, index=randomness.index[alive])
        points = (x[alive] + threat.random_start(x[alive], drawn, f"noise/{draw}")).clamp(0.0, 1.0)
        x_adv[alive] = points
        alive = alive[logits(points).argmax(1) == y[alive]]
    return x_adv
