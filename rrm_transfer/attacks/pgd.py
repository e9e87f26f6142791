"""PGD for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rrm_transfer.attacks.ascent import ascend
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel


def default_step_size(eps: float, steps: int) -> float:
    """Returns ``2.5 · eps / steps``, in the unit of eps.

    The rule of Madry et al. (arXiv 1706.06083): any point of the ball can be reached from any start, and some
    of the steps are left to move along its boundary. Ten steps at 8/255 are steps of 2/255.
    """
    return 2.5 * eps / steps


@torch.no_grad()
def pgd(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int,
    restarts: int = 1,
    randomness: Randomness | None = None,
) -> Tensor:
    """Looks for misclassified images near ``x`` by projected gradient ascent on the cross-entropy.

    Every restart begins at a point drawn uniformly from the ball. An image is lost at the first point that is
    misclassified, the clean image and every iterate included, and no more work is spent on it. This is never
    weaker than to look at last iterates only. The random numbers of an image depend on its index alone, so
    more restarts repeat the fewer ones and add to them.

    Args:
        logits: The attacked model, in evaluation mode and float32.
        x: Pixels in [0, 1], ``(B, C, H, W)``.
        y: Class indices, ``(B,)``.
        threat: The ball to search.
        steps: Per restart, 1 or more.
        restarts: 1 or more.
        randomness: Holds the images' indices; None: of seed 0, by position in the batch.

    Returns:
        Pixels in [0, 1] within the ball, ``(B, C, H, W)``: for a lost image the point where it was lost, for
        another the last iterate of the restart with the highest cross-entropy.
    """
    step_size = default_step_size(threat.eps, steps)
    if randomness is None:
        randomness = Randomness(seed=0, epoch=0, index=torch.arange(len(x), device=x.device))
    alive = (logits(x).argmax(1) == y).nonzero().flatten()
    x_adv = x.clone()
    worst = x.new_full((len(x),), -torch.inf)
    for restart in range(restarts):
        if not len(alive):
            break
        images = x[alive]
        drawn = replace(randomness, index=randomness.index[alive])
        start = threat.random_start(images, drawn, f"pgd/{restart}")
        points, losses = _restart(logits, images, y[alive], start, threat, steps, step_size)
        worse = losses > worst[alive]
        x_adv[alive[worse]], worst[alive[worse]] = points[worse], losses[worse]
        alive = alive[~losses.isinf()]
    return x_adv


class _Watched:
    """The cross-entropy of a batch, which remembers its last values and who was misclassified."""

    loss: Tensor
    lost: Tensor

    def __init__(self, logits: Callable[[Tensor], Tensor], y: Tensor) -> None:
        self._logits, self._y = logits, y

    def __call__(self, x: Tensor) -> Tensor:
        output = self._logits(x)
        loss = F.cross_entropy(output, self._y, reduction="none")
        self.loss = loss.detach()
        self.lost = (output.argmax(1) != self._y) | ~output.isfinite().all(1)
        return loss


def _restart(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta: Tensor,
    threat: ThreatModel,
    steps: int,
    step_size: float,
) -> tuple[Tensor, Tensor]:
    """Returns the last points that were looked at and their cross-entropy, infinite where misclassified."""
    points = x.clone()
    losses = x.new_full((len(x),), torch.inf)
    alive = torch.arange(len(x), device=x.device)
    for remaining in range(steps, -1, -1):
        images = x[alive]
        loss = _Watched(logits, y[alive])
        if remaining:
            moved = ascend(images, loss=loss, threat=threat, steps=1, step_size=step_size, delta=delta)
        else:
            moved = delta
            loss(images + delta)
        points[alive] = (images + delta).clamp(0.0, 1.0)
        losses[alive] = loss.loss.masked_fill(loss.lost, torch.inf).to(losses.dtype)
        alive, delta = alive[~loss.lost], moved[~loss.lost]
        if not len(alive):
            break
    return points, losses
