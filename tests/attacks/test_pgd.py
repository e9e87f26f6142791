from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrm_transfer.attacks.pgd import default_step_size, pgd
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import Norm, ThreatModel


class Toy:
    """A two-layer network that was trained on blurred class patterns, and its images."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(4, 1, 5, 5, generator=generator)
        self.y = torch.arange(120) % 4
        self.x = (
            (patterns[self.y] + 0.25 * torch.randn(120, 1, 5, 5, generator=generator)).clamp(0, 1).double()
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(25, 32), nn.Tanh(), nn.Linear(32, 4)).double()
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(self.net(self.x), self.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.images_seen = 0

    def logits(self, x: Tensor) -> Tensor:
        self.images_seen += len(x)
        output: Tensor = self.net(x)
        return output

    def attack(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        restarts: int = 1,
        rows: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        rows = torch.arange(len(self.x)) if rows is None else rows
        return pgd(
            self.logits,
            self.x[rows],
            self.y[rows],
            threat=threat,
            steps=steps,
            restarts=restarts,
            randomness=Randomness(seed, 0, rows),
        )

    def correct(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.net(x).argmax(1)
        return predicted == self.y


@cache
def toy() -> Toy:
    return Toy()


EPS: dict[Norm, tuple[float, ...]] = {"Linf": (0.0, 0.03, 0.1, 0.2, 0.5), "L2": (0.0, 0.15, 0.5, 1.0, 2.5)}


def test_default_step_size_is_madrys_rule() -> None:
    assert default_step_size(8 / 255, 10) == pytest.approx(2 / 255)
    assert default_step_size(8 / 255, 20) == pytest.approx(1 / 255)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_accuracy_falls_with_eps_down_to_nothing(norm: Norm) -> None:
    model = toy()
    counts = [int(model.correct(model.attack(ThreatModel(norm, eps))).sum()) for eps in EPS[norm]]
    assert counts[0] == int(model.correct(model.x).sum()) > 110
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    assert len(set(counts)) >= 4


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_stays_in_the_ball_and_the_image_range(norm: Norm, restarts: int) -> None:
    model = toy()
    for eps in EPS[norm]:
        threat = ThreatModel(norm, eps)
        x_adv = model.attack(threat, restarts=restarts)
        assert 0 <= x_adv.min() <= x_adv.max() <= 1
        assert threat.size(x_adv - model.x).max() <= eps + 1e-9
        assert not x_adv.requires_grad


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_restarts_and_steps_only_help(norm: Norm) -> None:
    model, threat = toy(), ThreatModel(norm, EPS[norm][2])
    survivors = [model.correct(model.attack(threat, restarts=count, steps=2)) for count in (1, 2, 5)]
    for fewer, more in pairwise(survivors):
        assert not (more & ~fewer).any()
    assert (
        model.correct(model.attack(threat, steps=20)).sum()
        <= model.correct(model.attack(threat, steps=1)).sum()
    )


def test_survivors_keep_their_worst_restart() -> None:
    model, threat = toy(), ThreatModel("Linf", 0.03)
    one, many = model.attack(threat, steps=2), model.attack(threat, steps=2, restarts=4)
    kept = model.correct(many)
    losses = [F.cross_entropy(model.net(x), model.y, reduction="none")[kept] for x in (one, many)]
    assert (losses[1] >= losses[0] - 1e-12).all()
    assert (losses[1] > losses[0]).any()


def test_is_at_least_as_strong_as_plain_pgd() -> None:
    model, threat = toy(), ThreatModel("Linf", 0.1)
    start = threat.random_start(model.x, Randomness(0, 0, torch.arange(120)), "pgd/0")
    delta = start
    for _ in range(10):
        point = (model.x + delta).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.net(point), model.y, reduction="sum"), point)
        delta = (delta + 0.025 * gradient.sign()).clamp(-0.1, 0.1)
        delta = (model.x + delta).clamp(0, 1) - model.x
    plain = model.correct(model.x + delta)
    ours = model.correct(model.attack(threat))
    assert not (ours & ~plain).any()
    assert plain.sum() > 0


def test_an_image_is_attacked_alike_in_any_batch() -> None:
    model, threat = toy(), ThreatModel("L2", 0.3)
    rows = torch.tensor([7, 100, 31, 2])
    together, apart = model.attack(threat, restarts=2), model.attack(threat, restarts=2, rows=rows)
    torch.testing.assert_close(together[rows], apart, rtol=0, atol=1e-9)
    assert torch.equal(together, model.attack(threat, restarts=2))
    assert not torch.equal(together, model.attack(threat, restarts=2, seed=1))


def test_lost_images_cost_nothing_more() -> None:
    model = toy()
    model.images_seen = 0
    model.attack(ThreatModel("Linf", 0.5), steps=50, restarts=10)
    assert model.images_seen < 120 * 12
    model.images_seen = 0
    model.attack(ThreatModel("Linf", 0.0), steps=4, restarts=3)
    clean = int(model.correct(model.x).sum())
    assert model.images_seen == 120 + clean * 3 * 5


def test_misclassified_images_are_returned_as_they_are() -> None:
    model = toy()
    x, wrong = model.x[:8], (model.y[:8] + 1) % 4
    x_adv = pgd(
        model.logits,
        x,
        wrong,
        threat=ThreatModel("Linf", 0.1),
        steps=2,
        randomness=Randomness(0, 0, torch.arange(8)),
    )
    assert torch.equal(x_adv, x)
