"""The linear map from one representation to another, solved in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PENALTIES = tuple(10.0**exponent for exponent in range(-8, 3))
"""The candidates."""
_KEPT = 5
"""Every so many-th sample is kept out to choose among them."""


class LinearMap(NamedTuple):
    """``weight @ z + bias``.

    Attributes:
        weight: ``(targets, features)``, float64.
        bias: ``(targets,)``, float64.
        penalty: That was chosen.
        explained: Part of the targets' variance that is explained on samples that the map was not solved on;
            1 is all of it, 0 none.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    explained: float


def ridge(z: Tensor, target: Tensor) -> LinearMap:
    """Solves ``min over W, b: Σ ‖target − W z − b‖² + penalty · s · ‖W‖²``.

    ``s`` is the mean over features of their summed squared deviations. Ridge regression (Hoerl and Kennard,
    "Ridge Regression: Biased Estimation for Nonorthogonal Problems", Technometrics 1970), in float64. The
    penalty is the one of ``PENALTIES`` with the least squared error on a fifth of the samples; the map is
    then solved on all of them.

    Args:
        z: Features, ``(B, features)``, in random order.
        target: ``(B, targets)``.
    """
    z, target = z.double().cpu(), target.double().cpu()
    kept = torch.arange(len(z)) % _KEPT == 0
    path = _Path(z[~kept], target[~kept])
    errors = torch.stack(
        [(target[kept] - path.apply(z[kept], penalty)).square().mean() for penalty in PENALTIES]
    )
    best = int(errors.argmin())
    spread = (target[kept] - target[kept].mean(0)).square().mean()
    weight, bias = _Path(z, target).solve(PENALTIES[best])
    return LinearMap(weight, bias, PENALTIES[best], float(1 - errors[best] / spread))


class _Path:
    """The solutions for all penalties, from one eigendecomposition."""

    def __init__(self, z: Tensor, target: Tensor) -> None:
        self._z_mean, self._target_mean = z.mean(0), target.mean(0)
        centred = z - self._z_mean
        values, self._vectors = torch.linalg.eigh(centred.T @ centred)
        self._values = values.clamp(min=0)
        self._moments = self._vectors.T @ (centred.T @ (target - self._target_mean))

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        scale = self._values.mean().clamp(min=torch.finfo(torch.float64).tiny)
        weight = (self._vectors @ (self._moments / (self._values + penalty * scale).unsqueeze(1))).T
        return weight, self._target_mean - weight @ self._z_mean

    def apply(self, z: Tensor, penalty: float) -> Tensor:
        weight, bias = self.solve(penalty)
        return z @ weight.T + bias
