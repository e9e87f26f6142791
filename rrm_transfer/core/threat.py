"""The threat model: which perturbations an attacker may add, and how an attack moves among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.core.randomness import Randomness

Norm = Literal["Linf", "L2"]
NORMS: tuple[str, ...] = get_args(Norm)

_TINY = 1e-12


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations of at most ``eps`` in ``norm`` that keep the image in [0, 1].

    Attributes:
        norm: ``"Linf"`` or ``"L2"``.
        eps: The radius in pixel units (pixels are in [0, 1]).
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UserError("Unknown norm.", received=self.norm, allowed=NORMS)
        if not self.eps >= 0:
            raise UserError("eps must be 0 or more.", received=self.eps)

    @classmethod
    def asked(cls, norm: Norm, eps: float) -> ThreatModel:
        """Makes the threat model that a user names.

        Raises:
            UserError: It is none, or the radius is plainly one of pixels in [0, 255].
        """
        threat = cls(norm, eps)
        if norm == "Linf" and eps > 1:
            raise UserError(
                "eps is in units of pixels in [0, 1], and in Linf none is above 1.",
                received=f"{eps:g}",
                hint=f"{eps:g}/255, if that is meant",
            )
        return threat

    def __str__(self) -> str:
        return f"{self.norm} {format_eps(self.eps)}"

    def with_eps(self, eps: float) -> ThreatModel:
        """Returns the same norm with another radius."""
        return replace(self, eps=eps)

    def random_start(self, x: Tensor, randomness: Randomness, purpose: str = "start") -> Tensor:
        """Draws a perturbation uniformly from the ball and clips it to the image range.

        Args:
            x: Pixels in [0, 1], ``(B, C, H, W)``.
            randomness: The batch's random numbers.
            purpose: Names the draw, so that restarts differ.

        Returns:
            ``delta`` of ``x``'s shape; ``x + delta`` is in [0, 1].
        """
        shape = tuple(x.shape[1:])
        if self.norm == "Linf":
            delta = (2 * randomness.uniform(purpose, shape) - 1) * self.eps
        else:
            direction = randomness.normal(purpose, shape)
            radius = randomness.uniform(purpose + "/length", ()) ** (1 / x[0].numel())
            delta = direction * _per_sample(self.eps * radius / self.size_l2(direction), x)
        return self.project(x, delta.to(x.dtype))

    def ascent(self, gradient: Tensor) -> Tensor:
        """Returns the steepest-ascent direction of unit size in this norm, ``(B, C, H, W)``."""
        if self.norm == "Linf":
            return gradient.sign()
        return gradient / _per_sample(self.size_l2(gradient), gradient)

    def project(self, x: Tensor, delta: Tensor) -> Tensor:
        """Brings ``delta`` into the ball and ``x + delta`` into [0, 1].

        Clipping to the image range moves each coordinate of ``delta`` towards zero, so the result is
        still in the ball.
        """
        return (x + self.into_ball(delta)).clamp(0.0, 1.0) - x

    def into_ball(self, delta: Tensor) -> Tensor:
        """Returns the point of the ball that is nearest to ``delta``, whatever the image."""
        if self.norm == "Linf":
            return delta.clamp(-self.eps, self.eps)
        return delta * _per_sample((self.eps / self.size_l2(delta)).clamp(max=1.0), delta)

    def size(self, delta: Tensor) -> Tensor:
        """Returns each perturbation's size in this norm, ``(B,)``, in pixel units."""
        if self.norm == "Linf":
            return delta.abs().flatten(1).amax(1)
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    @staticmethod
    def size_l2(delta: Tensor) -> Tensor:
        """Returns each perturbation's Euclidean length, ``(B,)``, at least a tiny positive number."""
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp(min=_TINY)
        return length
