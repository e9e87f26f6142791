"""What an attack is: stages that run one after another, each on the images that survived the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rrm_transfer.core.threat import ThreatModel

Logits = Callable[[Tensor], Tensor]
"""The attacked model: pixels in [0, 1], ``(B, C, H, W)``, to logits ``(B, classes)``; float32, eval mode."""


GRADIENT_COST = 3.0
"""Price of a forward pass and the input's gradient, in forward passes."""


class Victims(NamedTuple):
    """Images under attack.

    Attributes:
        index: Stable ids, ``(B,)`` int64.
        x: Pixels in [0, 1], ``(B, C, H, W)`` float32.
        y: Class indices, ``(B,)`` int64.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, as in data.loader.Batch
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Stage:
    """One attack of a suite.

    Attributes:
        name: As reports call it.
        cost: Rough price of one image in forward passes.
        perturb: Returns ``x_adv`` within the ball and [0, 1]. It depends on the batch alone, never on what
            was attacked before, so that batches can be shared among processes and continued another day.
    """

    name: str
    cost: float
    perturb: Callable[[Logits, Victims], Tensor]


@dataclass(frozen=True)
class Attack:
    """One measurement: the images that survive every stage are robust.

    Attributes:
        name: Names the attack in rows of metrics.json.
        threat: None where nobody attacks: on clean and on corrupted images. Such a measurement takes all
            images, an attack those that are classified correctly without it.
        steps: Iterations, queries or draws of a stage; None where the word means nothing.
        restarts: Restarts of each stage; None where there are none.
        stages: In order.
        seeks_minimum: Whether each image's smallest perturbation is looked for, with the ball as its limit.
    """

    name: str
    threat: ThreatModel | None
    steps: int | None
    restarts: int | None
    stages: tuple[Stage, ...]
    seeks_minimum: bool = False

    @property
    def key(self) -> str:
        """Names the measurement exactly: ``pgd-20x1 Linf 0.03137254901960784``."""
        if self.threat is None:
            return self.name
        return f"{self.name}-{self.steps}x{self.restarts} {self.threat.norm} {self.threat.eps!r}"

    @property
    def title(self) -> str:
        """Names it for people: ``pgd Linf 8/255``."""
        if self.threat is None:
            return "clean" if self.name == CLEAN.name else self.name
        if self.seeks_minimum:
            return f"{self.name} {self.threat.norm}"
        return f"{self.name} {self.threat}"


CLEAN = Attack("none", None, None, None, (Stage("none", 1.0, lambda _, victims: victims.x),))
"""No attack at all."""
