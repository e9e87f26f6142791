"""A small trained network and its images, for attacks that need something to break."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrm_transfer.attacks.attack import Victims


class Toy:
    """A two-layer network in float32 that was trained on blurred class patterns.

    Args:
        classes: Of the network and the images.
    """

    def __init__(self, classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(classes, 1, 6, 6, generator=generator)
        self.y = torch.arange(60) % classes
        self.x = (patterns[self.y] + 0.25 * torch.randn(60, 1, 6, 6, generator=generator)).clamp(0, 1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, classes))
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(self.net(self.x), self.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.net.eval().requires_grad_(False)

    def logits(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output

    def victims(self, count: int = 60) -> Victims:
        return Victims(torch.arange(count), self.x[:count], self.y[:count])

    def correct(self, x: Tensor) -> Tensor:
        return self.logits(x).argmax(1) == self.y[: len(x)]


@cache
def toy(classes: int = 5) -> Toy:
    return Toy(classes)
