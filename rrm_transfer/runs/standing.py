"""Whether a teacher is robust, by what it keeps of its clean accuracy under a short attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.evaluation.paired import Paired

Grade = Literal["robust", "weak", "not robust"]

ROBUST = 0.5
"""Share of its clean accuracy that a robust teacher keeps at eps.

Robust networks of RobustBench keep about half and more under AutoAttack, which is stronger: on CIFAR-10 at
Linf 8/255 52 % (Wong et al., 2020: 83.3 and 43.2) to 76 % (Wang et al., 2023: 93.2 and 70.7), on ImageNet at
4/255 48 % (Salman et al., 2020, ResNet-18: 52.9 and 25.3). Undefended networks keep nothing there, but 15 to
39 % on Fashion-MNIST at 8/255, where the radius is small for the data.
"""
WEAK = 0.2
"""Less than this share at eps is that of an undefended network, whatever is left at twice the radius."""
FURTHER = 0.05
"""Share at 2 eps below which what is kept at eps owes to a radius that is small for the data: a robust
network's accuracy falls slowly with the radius, an undefended one's is soon gone."""
SURE = 0.8
"""Share at eps that says enough whatever is left at 2 eps: who keeps nearly all at eps and nothing at twice
that was trained for eps. The embedded teacher keeps 94 % at 0.1 and 2 % at 0.2; an undefended network that
keeps as much keeps most of it at twice the radius, which is then small for the data."""


@dataclass(frozen=True)
class Standing:
    """How a network fares under a short attack.

    Attributes:
        clean: Its accuracy on images as they are.
        near: At eps.
        far: At 2 eps.
        stated: Share of the clean accuracy that its source says is kept at eps, under an attack at least as
            strong; None where it does not say.
    """

    clean: Row
    near: Row
    far: Row
    stated: float | None = None

    @property
    def kept(self) -> tuple[float, float]:
        """The shares of the clean accuracy that are left at eps and at 2 eps."""
        clean = max(self.clean.accuracy, 1 / self.clean.count)
        return self.near.accuracy / clean, self.far.accuracy / clean

    @property
    def falls_short(self) -> bool:
        """Whether it keeps less than its source says, by more than the images at hand leave open."""
        if self.stated is None:
            return False
        _, high = Proportion(self.near.correct, self.near.count).interval()
        return high < self.stated * self.clean.accuracy

    @property
    def grade(self) -> Grade:
        """The source's word lowers the limit where it is kept, and nobody is robust who falls short of it."""
        near, far = self.kept
        limit = ROBUST if self.stated is None else min(ROBUST, 0.9 * self.stated)  # 0.9: on few images
        lasting = far >= FURTHER or near >= SURE
        if near >= max(limit, WEAK) and lasting and not self.falls_short:
            return "robust"
        if near >= ROBUST or (near >= WEAK and far >= FURTHER):
            return "weak"
        return "not robust"

    def __str__(self) -> str:
        near, far = self._share(self.near), self._share(self.far)
        said = "" if self.stated is None else f"; its source says {self.stated:.0%} at eps"
        return f"it keeps {near} of its clean accuracy at eps and {far} at 2 eps{said}"

    def _share(self, row: Row) -> str:
        pair = Paired.of(row, self.clean)
        share = None if pair is None else pair.ratio()
        if share is None:
            return "an unknown part"
        return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
