from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import InnerAttack, Start, ascend
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import Norm, ThreatModel

THREATS = [
    ThreatModel("Linf", 8 / 255),
    ThreatModel("Linf", 0.7),
    ThreatModel("L2", 0.5),
    ThreatModel("L2", 5.0),
]


def images(seed: int, batch: int = 8) -> Tensor:
    """Images with many pixels on the edge of the image range."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, 3, 6, 6, generator=generator) * 2 - 0.5).clamp(0, 1)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize("start", get_args(Start))
@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_never_leaves_the_ball_or_the_image_range(threat: ThreatModel, start: Start, seed: int) -> None:
    x, net = images(seed), network().eval()
    inner = InnerAttack(3, 0.8, start, start_scale=2.0)
    draws = Randomness(seed, 0, torch.arange(len(x)))
    x_adv = inner.perturb(x, lambda z: net(z).logsumexp(1), threat, draws)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert threat.size(x_adv - x).max() <= threat.eps * (1 + 1e-5) + 1e-7
    assert (threat.size(x_adv - x) > 0).all()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_without_clipping_only_the_image_range_holds(threat: ThreatModel) -> None:
    x = torch.full((4, 3, 6, 6), 0.5)
    inner = InnerAttack(3, 1.0, start="none", clip=False)
    draws = Randomness(0, 0, torch.arange(4))
    x_adv = inner.perturb(x, lambda z: z.flatten(1).sum(1), threat, draws)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert (threat.size(x_adv - x) > 1.01 * min(threat.eps, 0.4)).all()


@pytest.mark.parametrize("norm", get_args(Norm))
def test_one_step_is_the_steepest_of_its_size(norm: Norm) -> None:
    slope = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    x = torch.full((2, 3, 6, 6), 0.5)
    delta = ascend(
        x,
        loss=lambda z: (slope * z).flatten(1).sum(1),
        threat=ThreatModel(norm, 0.2),
        steps=1,
        step_size=0.05,
        delta=torch.zeros_like(x),
    )
    expected = slope.sign() if norm == "Linf" else slope / slope.norm()
    torch.testing.assert_close(delta, (0.05 * expected).expand_as(x))


def test_no_steps_return_the_start_and_an_empty_ball_the_image() -> None:
    x, net = images(0), network().eval()
    start = torch.full_like(x, 0.01)
    kept = ascend(x, loss=lambda z: net(z).sum(1), threat=THREATS[0], steps=0, step_size=0.1, delta=start)
    assert torch.equal(kept, start)
    draws = Randomness(0, 0, torch.arange(len(x)))
    empty = InnerAttack(2, 1.0).perturb(x, lambda z: net(z).sum(1), ThreatModel("Linf", 0.0), draws)
    assert torch.equal(empty, x)


@pytest.mark.parametrize("grad_mode", [True, False])
def test_weights_get_no_gradient_and_statistics_stay(grad_mode: bool) -> None:
    x, net = images(0), network().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    start = torch.zeros_like(x)
    with torch.set_grad_enabled(grad_mode):
        delta = ascend(
            x, loss=lambda z: net(z).logsumexp(1), threat=THREATS[0], steps=2, step_size=0.01, delta=start
        )
    assert not delta.requires_grad
    assert not start.requires_grad
    assert torch.equal(start, torch.zeros_like(x))
    assert all(weight.grad is None for weight in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_ascent_works_under_autocast() -> None:
    x, net = images(0), network().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        delta = ascend(
            x,
            loss=lambda z: net(z).float().logsumexp(1),
            threat=THREATS[0],
            steps=2,
            step_size=0.01,
            delta=torch.zeros_like(x),
        )
    assert delta.dtype == torch.float32
    assert net(x + delta).logsumexp(1).mean() > net(x).logsumexp(1).mean()


def test_an_image_is_attacked_alike_in_any_batch() -> None:
    x = images(0).double()
    slope = torch.randn(3 * 36, 5, generator=torch.Generator().manual_seed(0)).double()

    def attack(rows: Tensor) -> Tensor:
        return InnerAttack(2, 0.5).perturb(
            x[rows],
            lambda z: (z.flatten(1) @ slope).logsumexp(1),
            THREATS[0],
            Randomness(0, 0, rows),
        )

    torch.testing.assert_close(
        attack(torch.arange(8))[[5, 2]], attack(torch.tensor([5, 2])), rtol=0, atol=1e-9
    )
