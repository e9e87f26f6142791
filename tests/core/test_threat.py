from __future__ import annotations

import math

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import Norm, ThreatModel

NORMS: list[Norm] = ["Linf", "L2"]


def images(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 8 / 255, 0.5, 3.0])
def test_projection_and_start_stay_in_the_ball_and_the_image(norm: Norm, eps: float) -> None:
    x, threat = images(), ThreatModel(norm, eps)
    wild = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 3
    start = threat.random_start(x, Randomness(0, 0, torch.arange(len(x))))
    for delta in (threat.project(x, wild), start):
        assert (threat.size(delta) <= eps + 1e-6).all()
        assert ((x + delta) >= 0).all()
        assert ((x + delta) <= 1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_leaves_what_is_inside(norm: Norm) -> None:
    x = images() * 0.2 + 0.4
    delta = torch.full_like(x, 1e-3)
    assert torch.allclose(ThreatModel(norm, 0.3).project(x, delta), delta, atol=1e-7)


def test_l2_start_is_uniform_in_the_ball() -> None:
    x = torch.full((4000, 1, 1, 2), 0.5)
    start = ThreatModel("L2", 0.4).random_start(x, Randomness(0, 0, torch.arange(len(x))))
    radius = start.flatten(1).norm(dim=1) / 0.4
    inside_half = float((radius < 0.5).float().mean())
    assert inside_half == pytest.approx(0.25, abs=0.03)  # area grows with the square of the radius
    angle = torch.atan2(start[:, 0, 0, 1], start[:, 0, 0, 0])
    assert float((angle.abs() < math.pi / 2).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_ascent_is_the_steepest_direction_of_unit_size() -> None:
    gradient = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    for norm in NORMS:
        threat = ThreatModel(norm, 1.0)
        step = threat.ascent(gradient)
        assert torch.allclose(threat.size(step), torch.ones(5), atol=1e-6)
        gain = (gradient * step).flatten(1).sum(1)
        dual = gradient.abs().flatten(1).sum(1) if norm == "Linf" else gradient.flatten(1).norm(dim=1)
        assert torch.allclose(gain, dual, rtol=1e-5)


def test_a_zero_gradient_is_no_step() -> None:
    zero = torch.zeros(2, 3, 4, 4)
    for norm in NORMS:
        assert torch.equal(ThreatModel(norm, 1.0).ascent(zero), zero)


def test_a_wrong_threat_model_is_refused() -> None:
    with pytest.raises(UserError, match="Linf, L2"):
        ThreatModel("L1", 0.1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="0 or more"):
        ThreatModel("L2", float("nan"))
    with pytest.raises(UserError, match="8/255"):
        ThreatModel.asked("Linf", 8)
    assert ThreatModel.asked("L2", 8) == ThreatModel("L2", 8)


def test_it_prints_as_the_field_writes_it() -> None:
    assert str(ThreatModel("Linf", 8 / 255)) == "Linf 8/255"
