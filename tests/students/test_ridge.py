"""A linear map between representations, solved in closed form."""

from __future__ import annotations

import pytest
import torch

from rrm_transfer.students.ridge import PENALTIES, ridge


def _linear(samples: int, width: int, *, noise: float) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(samples, width, generator=draw) * torch.linspace(0.1, 3, width) + 2
    weight, bias = torch.randn(5, width, generator=draw), torch.randn(5, generator=draw)
    return z, weight, bias, z @ weight.T + bias + noise * torch.randn(samples, 5, generator=draw)


def test_a_linear_map_is_found_with_its_bias() -> None:
    z, weight, bias, target = _linear(200, 12, noise=0.0)
    found = ridge(z, target)
    torch.testing.assert_close(found.weight.float(), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.bias.float(), bias, rtol=1e-3, atol=1e-2)
    assert found.explained == pytest.approx(1, abs=1e-4)


def test_it_minimises_the_penalised_squares() -> None:
    z, _, _, target = _linear(60, 12, noise=3.0)
    found = ridge(z, target)
    centred, aim = (z - z.mean(0)).double(), (target - target.mean(0)).double()
    scale = found.penalty * centred.square().sum(0).mean()
    gradient = (centred @ found.weight.T - aim).T @ centred + scale * found.weight
    assert gradient.abs().max() < 1e-8 * aim.norm() * centred.norm()
    assert found.penalty in PENALTIES


def test_the_penalty_is_that_of_least_error_on_new_samples() -> None:
    z, weight, _, target = _linear(40, 30, noise=20.0)  # few, noisy samples: a plain solution fits the noise
    found = ridge(z, target)
    assert found.penalty > PENALTIES[3]
    plain = torch.linalg.lstsq(z - z.mean(0), target - target.mean(0)).solution.T
    assert (found.weight - weight).norm() < (plain - weight).norm()


def test_more_features_than_samples_and_dead_features_are_no_obstacle() -> None:
    z, _, _, target = _linear(20, 50, noise=0.1)
    z[:, :10] = 1.0
    found = ridge(z, target)
    assert found.weight.isfinite().all()
    assert found.weight[:, :10].abs().max() < 1e-6
    assert ridge(torch.zeros(20, 3), target).weight.abs().max() == 0
