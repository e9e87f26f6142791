"""Every objective against its published equation, written out again in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives import OBJECTIVES, build_objective
from rrm_transfer.objectives.base import Objective, Term
from tests.objectives.fakes import FakeStep, evaluating, make_step


def softmax(z: Tensor) -> Tensor:
    powers = torch.exp(z)
    return powers / powers.sum(1, keepdim=True)


def answers(network: nn.Module, x: Tensor) -> Outputs:
    outputs: Outputs = network(x)
    return outputs


def kl(target: Tensor, measured: Tensor, tau: float = 1.0) -> Tensor:
    p, q = softmax(target / tau), softmax(measured / tau)
    return tau * tau * (p * (p / q).log()).sum(1)


def ce(z: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    log_p = softmax(z).log()
    classes = z.shape[1]
    picked = log_p[torch.arange(len(y)), y]
    return -(1 - smoothing) * picked - smoothing / classes * log_p.sum(1)


def length(v: Tensor) -> Tensor:
    return (v * v).sum(1).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return 1 - (a * b).sum(1) / (length(a) * length(b))


def relative(a: Tensor, b: Tensor) -> Tensor:
    return length(a - b) / length(b)


@dataclass
class World:
    """The functions that equations speak of. Capital letters as in the papers."""

    step: FakeStep
    x: Tensor = field(init=False)
    y: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x, self.y = self.step.x, self.step.y

    @property
    def adv(self) -> Tensor:
        assert self.step.x_adv is not None
        return self.step.x_adv

    def S(self, x: Tensor) -> Tensor:  # noqa: N802
        return answers(self.step.net, x).logits

    def gS(self, x: Tensor) -> Tensor:  # noqa: N802
        return answers(self.step.net, x).features

    def T(self, x: Tensor) -> Tensor:  # noqa: N802
        return answers(self.step.frozen, x).logits

    def gT(self, x: Tensor) -> Tensor:  # noqa: N802
        return answers(self.step.frozen, x).features

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        return answers(self.step.anchored, x).logits

    def gA(self, x: Tensor) -> Tensor:  # noqa: N802
        return answers(self.step.anchored, x).features

    def hS(self, x: Tensor, layer: int) -> Tensor:  # noqa: N802
        return answers(self.step.net, x).intermediates[layer]

    def hT(self, x: Tensor, layer: int) -> Tensor:  # noqa: N802
        return answers(self.step.frozen, x).intermediates[layer]

    def noise(self, purpose: str, scale: float) -> Tensor:
        """Uniform noise in ``scale`` times the Linf ball, brought into the image range."""
        drawn = 2 * self.step.randomness.uniform(purpose, tuple(self.x.shape[1:])) - 1
        return (self.x + (drawn * scale * self.step.threat.eps).double()).clamp(0, 1) - self.x

    def gaussian(self, scale: float) -> Tensor:
        drawn = self.step.randomness.normal("inner", tuple(self.x.shape[1:])).double()
        return (self.x + scale * drawn).clamp(0, 1) - self.x


@dataclass(frozen=True)
class Ascent:
    """What the inner attack of an objective is, by its paper."""

    climbs: Callable[[World, Tensor], Tensor]
    start: Callable[[World], Tensor]
    steps: int
    step_size: float
    clip: bool = True


@dataclass(frozen=True)
class Case:
    name: str
    loss: Callable[[World], Tensor]
    arguments: dict[str, object] = field(default_factory=dict)
    ascent: Ascent | None = None
    teacher_in_ascent: bool = False
    teacher_in_step: bool = True
    progress: float = 0.5

    def build(self) -> tuple[Objective, FakeStep]:
        """Returns the objective and a fresh step for it."""
        objective = build_objective(self.name, **self.arguments)
        return objective, make_step(progress=self.progress, layers=len(objective.layers))

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.arguments.items())])


def uniform(w: World) -> Tensor:
    return w.noise("inner", 1.0)


def small_gaussian(w: World) -> Tensor:
    return w.gaussian(0.001)


def climb_ce(w: World, x: Tensor) -> Tensor:
    return ce(w.S(x), w.y)


def climb_teacher(w: World, x: Tensor) -> Tensor:
    return kl(w.T(w.x), w.S(x))


def climb_disagreement(w: World, x: Tensor) -> Tensor:
    return kl(w.T(x), w.S(x))


def igdm(w: World) -> Tensor:
    mirrored = w.x - (w.adv - w.x)
    return kl(w.T(w.adv) - w.T(mirrored), w.S(w.adv) - w.S(mirrored)).mean()


def doubt(w: World, beta: float) -> Tensor:
    return 1 - softmax(w.T(w.adv))[torch.arange(len(w.y)), w.y] ** beta


def entropy(z: Tensor) -> Tensor:
    p = softmax(z)
    return -(p * p.log()).sum(1)


def unsure(z: Tensor) -> Tensor:
    return entropy(z) - entropy(z).min()


def sure(z: Tensor) -> Tensor:
    return 1 - unsure(z) / unsure(z).max()


def gradient_norm(w: World, loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """L1, for Linf, of the mean loss's gradient times the number of images."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(w.S(x)).mean(), x, create_graph=True)
    return len(x) * gradient.abs().sum((1, 2, 3))


PGD = Ascent(climb_ce, uniform, 10, 0.25)
ONE_STEP = 1.25

CASES = [
    Case("natural", lambda w: ce(w.S(w.x), w.y).mean()),
    Case("natural", lambda w: ce(w.S(w.x), w.y, 0.1).mean(), {"label_smoothing": 0.1}),
    Case("rdt", lambda w: ce(w.S(w.x), w.y).mean(), teacher_in_step=False),
    Case("rrm", lambda w: 0.005 * ce(w.S(w.x), w.y).mean() + cosine(w.gS(w.x), w.gT(w.x)).mean()),
    Case(
        "rrm",
        lambda w: 2 * relative(w.gS(w.x), w.gT(w.x)).mean(),
        {"distance": "relative_l2", "ce_weight": 0, "feature_weight": 2},
    ),
    Case(
        "rrm",
        lambda w: (
            0.005 * ce(w.S(w.x), w.y).mean()
            + (relative(w.gS(w.x), w.gT(w.x)) + cosine(w.gS(w.x), w.gT(w.x))).mean()
            + 0.25 * kl(w.T(w.x), w.S(w.x), 3.0).mean()
        ),
        {"distance": "both", "kd_weight": 0.25, "temperature": 3},
    ),
    Case(
        "rrm",
        lambda w: cosine(w.gS(w.x + w.noise("input noise", 0.5)), w.gT(w.x)).mean(),
        {"noise": 0.5, "ce_weight": 0},
    ),
    Case(
        "rrm",
        lambda w: (
            2
            * (
                cosine(w.gS(w.x), w.gT(w.x))
                + 0.5 * cosine(w.hS(w.x, 0), w.hT(w.x, 0))
                + 3 * cosine(w.hS(w.x, 1), w.hT(w.x, 1))
            )
            + 0.005 * ce(w.S(w.x), w.y)
        ).mean(),
        {
            "feature_weight": 2,
            "student_layers": [1, "b"],
            "teacher_layers": ["c", -2],
            "layer_weights": [0.5, 3],
        },
    ),
    Case(
        "rrm",
        lambda w: relative(w.gS(w.x), w.gT(w.x)).mean(),
        {"distance": "relative_l2", "ce_weight": 0, "freeze_classifier": True},
    ),
    Case("kd", lambda w: kl(w.T(w.x), w.S(w.x), 4.0).mean()),
    Case(
        "kd",
        lambda w: (
            0.9 * kl(w.T(w.x), w.S(w.x + w.noise("input noise", 1.0)), 2.0)
            + 0.1 * ce(w.S(w.x + w.noise("input noise", 1.0)), w.y)
            + 0.3 * relative(w.gS(w.x + w.noise("input noise", 1.0)), w.gT(w.x))
        ).mean(),
        {"kd_weight": 0.9, "temperature": 2, "ce_weight": 0.1, "feature_weight": 0.3, "noise": 1},
    ),
    Case(
        "rrm-adv",
        lambda w: (relative(w.gS(w.adv), w.gT(w.x)) + 0.005 * ce(w.S(w.adv), w.y)).mean(),
        ascent=Ascent(lambda w, x: relative(w.gS(x), w.gT(w.x)), uniform, 1, ONE_STEP),
    ),
    Case(
        "rrm-adv",
        lambda w: (
            (
                cosine(w.gS(w.adv), w.gT(w.x))
                + 0.5 * cosine(w.gS(w.x), w.gT(w.x))
                + 0.25 * ce(w.S(w.adv), w.y)
            ).mean()
            + 0.125 * ce(w.S(w.x), w.y).mean()
        ),
        {
            "distance": "cosine",
            "ce_weight": 0.25,
            "clean_feature_weight": 0.5,
            "clean_ce_weight": 0.125,
            "ascend": "ce",
            "steps": 4,
        },
        ascent=Ascent(climb_ce, uniform, 4, 2.5 / 4),
    ),
    Case(
        "rrm-adv",
        lambda w: (
            relative(w.gS(w.adv), w.gT(w.x)) + cosine(w.gS(w.adv), w.gT(w.x)) + kl(w.T(w.x), w.S(w.adv), 4.0)
        ).mean(),
        {"distance": "both", "kd_weight": 1, "ce_weight": 0, "start": "noise", "step_size": 1, "clip": False},
        ascent=Ascent(
            lambda w, x: relative(w.gS(x), w.gT(w.x)) + cosine(w.gS(x), w.gT(w.x)),
            lambda w: w.noise("inner", 2.0),
            1,
            1.0,
            clip=False,
        ),
    ),
    Case(
        "rrm-adv",
        lambda w: (
            relative(w.gS(w.adv), w.gT(w.x))
            + 0.25 * relative(w.hS(w.adv, 0), w.hT(w.x, 0))
            + 0.25 * relative(w.hS(w.adv, 1), w.hT(w.x, 1))
            + 0.3 * kl(w.T(w.x), w.S(w.x + w.noise("input noise", 0.5)), 2.0)
        ).mean(),
        {
            "ce_weight": 0,
            "student_layers": [0, 1],
            "layer_weights": 0.25,
            "clean_kd_weight": 0.3,
            "temperature": 2,
            "noise": 0.5,
        },
        ascent=Ascent(lambda w, x: relative(w.gS(x), w.gT(w.x)), uniform, 1, ONE_STEP),
    ),
    Case(
        "kd-adv",
        lambda w: kl(w.T(w.x), w.S(w.adv), 4.0).mean(),
        ascent=Ascent(lambda w, x: kl(w.T(w.x), w.S(x), 4.0), uniform, 1, ONE_STEP),
    ),
    Case(
        "kd-adv",
        lambda w: kl(w.T(w.x), w.S(w.adv), 4.0).mean() + 0.5 * 2 * igdm(w),
        {"igdm_weight": 2, "ascend": "ce", "start": "none"},
        ascent=Ascent(climb_ce, lambda w: torch.zeros_like(w.x), 1, ONE_STEP),
    ),
    Case(
        "kd-adv",
        lambda w: (
            1.5 * kl(w.T(w.x), w.S(w.x + w.noise("input noise", 0.5)), 4.0)
            + 0.25 * ce(w.S(w.x + w.noise("input noise", 0.5)), w.y)
        ).mean(),
        {"begin": 0.75, "noise": 0.5, "clean_kd_weight": 0.5, "clean_ce_weight": 0.25, "igdm_weight": 1},
        progress=0.74,
    ),
    Case(
        "kd-adv",
        lambda w: kl(w.T(w.x), w.S(w.adv), 4.0).mean(),
        {"begin": 0.75},
        ascent=Ascent(lambda w, x: kl(w.T(w.x), w.S(x), 4.0), uniform, 1, ONE_STEP),
        progress=0.75,
    ),
    Case(
        "kd-adv",
        lambda w: (
            kl(w.T(w.x), w.S(w.adv), 2.0) + 0.5 * kl(w.A(w.x), w.S(w.x + w.noise("input noise", 0.5)), 2.0)
        ).mean(),
        {"anchor": "start", "anchor_weight": 0.5, "noise": 0.5, "temperature": 2},
        ascent=Ascent(lambda w, x: kl(w.T(w.x), w.S(x), 2.0), uniform, 1, ONE_STEP),
    ),
    Case(
        "rrm-adv",
        lambda w: (
            relative(w.gS(w.adv), w.gT(w.x))
            + 0.3 * kl(w.T(w.x), w.S(w.x), 4.0)
            + 0.5 * relative(w.gS(w.x), w.gA(w.x))
        ).mean(),
        {"anchor": "start", "anchor_weight": 0.5, "ce_weight": 0, "clean_kd_weight": 0.3},
        ascent=Ascent(lambda w, x: relative(w.gS(x), w.gT(w.x)), uniform, 1, ONE_STEP),
    ),
    Case(
        "rrm-adv",
        lambda w: (relative(w.gS(w.x), w.gT(w.x)) + 0.5 * kl(w.A(w.x), w.S(w.x), 4.0)).mean(),
        {"anchor": "a clean network", "anchor_weight": 0.5, "ce_weight": 0, "begin": 0.75},
        progress=0.5,
    ),
    Case(
        "rrm",
        lambda w: (
            cosine(w.gS(w.x), w.gT(w.x)).mean()
            + 0.005 * ce(w.S(w.x), w.y).mean()
            + 0.5 * 0.1 * gradient_norm(w, lambda z: ce(z, w.y), w.x).mean()
        ),
        {"gradient_weight": 0.5},
    ),
    Case(
        "kd",
        lambda w: (
            kl(w.T(w.x), w.S(w.x + w.noise("input noise", 1.0)), 4.0).mean()
            + 2 * 0.1 * gradient_norm(w, lambda z: ce(z, w.y), w.x + w.noise("input noise", 1.0)).mean()
        ),
        {"gradient_weight": 2, "noise": 1},
    ),
    Case(
        "rrm-adv",
        lambda w: (relative(w.gS(w.adv), w.gT(w.adv)) + 0.005 * ce(w.S(w.adv), w.y)).mean(),
        {"target": "adversarial"},
        ascent=Ascent(lambda w, x: relative(w.gS(x), w.gT(w.x)), uniform, 1, ONE_STEP),
    ),
    Case(
        "rrm-adv",
        lambda w: (
            unsure(w.T(w.x))
            * (relative(w.gS(w.adv), w.gT(w.x)) + 0.5 * relative(w.hS(w.adv, 0), w.hT(w.x, 0)))
            + 0.005 * ce(w.S(w.adv), w.y)
        ).mean(),
        {"weighting": "entropy", "student_layers": [0], "layer_weights": 0.5},
        ascent=Ascent(lambda w, x: relative(w.gS(x), w.gT(w.x)), uniform, 1, ONE_STEP),
    ),
    Case(
        "kd-adv",
        lambda w: (
            (
                5 * unsure(w.T(w.adv)) * kl(w.T(w.adv), w.S(w.adv))
                + 0.7 * sure(w.T(w.adv)) * kl(w.T(w.x), w.S(w.x))
                + 0.1 * ce(w.S(w.x), w.y)
            ).mean()
            + 0.5 * 2 * igdm(w)
        ),
        {
            "target": "adversarial",
            "weighting": "entropy",
            "temperature": 1,
            "kd_weight": 5,
            "clean_kd_weight": 0.7,
            "clean_ce_weight": 0.1,
            "igdm_weight": 2,
        },
        ascent=Ascent(lambda w, x: kl(w.T(w.x), w.S(x)), uniform, 1, ONE_STEP),
    ),
    Case(
        "kd-adv",
        lambda w: kl(w.T(w.adv), w.S(w.adv), 4.0).mean(),
        {"target": "adversarial", "ascend": "ce"},
        ascent=Ascent(climb_ce, uniform, 1, ONE_STEP),
    ),
    Case(
        "rrm-adv",
        lambda w: (
            relative(w.gS(w.x + w.noise("input noise", 0.5)), w.gT(w.x))
            + 0.005 * ce(w.S(w.x + w.noise("input noise", 0.5)), w.y)
        ).mean(),
        {"begin": 0.75, "noise": 0.5, "target": "adversarial", "weighting": "entropy"},
        progress=0.74,
    ),
    Case("ard", lambda w: kl(w.T(w.x), w.S(w.adv), 30.0).mean(), ascent=PGD),
    Case(
        "ard",
        lambda w: (0.7 * kl(w.T(w.x), w.S(w.adv), 5.0) + 0.3 * ce(w.S(w.x), w.y)).mean() + 0.5 * 3 * igdm(w),
        {"alpha": 0.7, "temperature": 5, "igdm_weight": 3},
        ascent=PGD,
    ),
    Case(
        "iad",
        lambda w: (kl(w.T(w.x), w.S(w.adv)) + doubt(w, 0.1) * kl(w.S(w.x), w.S(w.adv))).mean(),
        ascent=PGD,
    ),
    Case(
        "iad",
        lambda w: (
            (kl(w.T(w.x), w.S(w.adv), 2.0) + doubt(w, 0.5) * kl(w.S(w.x), w.S(w.adv))).mean() + 0.5 * igdm(w)
        ),
        {"beta": 0.5, "temperature": 2, "igdm_weight": 1},
        ascent=PGD,
    ),
    Case("iad", lambda w: kl(w.T(w.x), w.S(w.adv)).mean(), ascent=PGD, progress=0.2),
    Case(
        "rslad",
        lambda w: (5 * kl(w.T(w.x), w.S(w.adv)) + kl(w.T(w.x), w.S(w.x))).mean() / 6,
        ascent=Ascent(climb_teacher, small_gaussian, 10, 0.25),
    ),
    Case(
        "rslad",
        lambda w: kl(w.T(w.x), w.S(w.adv)).mean() + 0.5 * igdm(w),
        {"adversarial_share": 1, "steps": 2, "step_size": "1/3", "igdm_weight": 1},
        ascent=Ascent(climb_teacher, small_gaussian, 2, 1 / 3),
    ),
    Case(
        "adaad",
        lambda w: kl(w.T(w.adv), w.S(w.adv)).mean(),
        ascent=Ascent(climb_disagreement, small_gaussian, 10, 0.25),
        teacher_in_ascent=True,
    ),
    Case(
        "adaad",
        lambda w: (0.6 * kl(w.T(w.adv), w.S(w.adv)) + 0.4 * kl(w.T(w.x), w.S(w.x))).mean(),
        {"adversarial_share": 0.6},
        ascent=Ascent(climb_disagreement, small_gaussian, 10, 0.25),
        teacher_in_ascent=True,
    ),
    Case(
        "igdm",
        lambda w: kl(w.T(w.adv), w.S(w.adv)).mean() + 0.25 * 20 * igdm(w),
        {"igdm_weight": 20},
        ascent=Ascent(climb_disagreement, small_gaussian, 10, 0.25),
        teacher_in_ascent=True,
        progress=0.25,
    ),
    Case("pgd-at", lambda w: ce(w.S(w.adv), w.y).mean(), ascent=PGD),
    Case(
        "pgd-at",
        lambda w: ce(w.S(w.adv), w.y, 0.2).mean(),
        {"steps": 7, "random_start": False, "label_smoothing": 0.2},
        ascent=Ascent(climb_ce, lambda w: torch.zeros_like(w.x), 7, 0.25),
    ),
    Case("fast-at", lambda w: ce(w.S(w.adv), w.y).mean(), ascent=Ascent(climb_ce, uniform, 1, ONE_STEP)),
    Case(
        "n-fgsm",
        lambda w: ce(w.S(w.adv), w.y).mean(),
        ascent=Ascent(climb_ce, lambda w: w.noise("inner", 2.0), 1, 1.0, clip=False),
    ),
    Case(
        "trades",
        lambda w: (ce(w.S(w.x), w.y) + 6 * kl(w.S(w.x), w.S(w.adv))).mean(),
        ascent=Ascent(lambda w, x: kl(w.S(w.x).detach(), w.S(x)), small_gaussian, 10, 0.226),
    ),
    Case(
        "gradnorm",
        lambda w: (0.8 * ce(w.S(w.x), w.y) + 1.2 * 0.1 * gradient_norm(w, lambda z: ce(z, w.y), w.x)).mean(),
    ),
    Case(
        "gradnorm",
        lambda w: (
            ce(w.S(w.x), w.y, 0.1) + 3 * 0.1 * gradient_norm(w, lambda z: ce(z, w.y, 0.1), w.x)
        ).mean(),
        {"label_smoothing": 0.1, "ce_weight": 1, "gradient_weight": 3},
    ),
    Case("free-at", lambda w: ce(w.S(w.x), w.y).mean()),
]


def total(terms: list[Term]) -> Tensor:
    return torch.stack([term.weight * term.value for term in terms]).sum()


def climb(world: World, ascent: Ascent) -> Tensor:
    """The attack as papers write it, for Linf."""
    eps, x = world.step.threat.eps, world.x
    delta = ascent.start(world)
    with evaluating(world.step.net):
        for _ in range(ascent.steps):
            point = (x + delta).requires_grad_()
            (gradient,) = torch.autograd.grad(ascent.climbs(world, point).sum(), point)
            delta = delta + ascent.step_size * eps * gradient.sign()
            if ascent.clip:
                delta = delta.clamp(-eps, eps)
            delta = (x + delta).clamp(0, 1) - x
    return x + delta


def test_every_objective_has_a_case() -> None:
    assert {case.name for case in CASES} == set(OBJECTIVES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient_equal_the_equation(case: Case) -> None:
    objective, step = case.build()
    terms = objective(step)
    expected = case.loss(World(step))
    weights = list(step.net.parameters())
    assert all(term.weight >= 0 and term.value.shape == () for term in terms)
    assert len({term.name for term in terms}) == len(terms)
    torch.testing.assert_close(total(terms), expected, rtol=1e-9, atol=1e-12)
    for actual, wanted in zip(
        torch.autograd.grad(total(terms), weights, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected, weights, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inner_attack_is_the_published_one(case: Case) -> None:
    objective, step = case.build()
    objective(step)
    if case.ascent is None:
        assert step.attacks == []
        return
    assert len(step.attacks) == 1
    assert step.x_adv is not None
    untrained = World(make_step(progress=case.progress))  # its batch statistics are those of the attack
    torch.testing.assert_close(step.x_adv, climb(untrained, case.ascent), rtol=0, atol=1e-9)
    assert not step.x_adv.requires_grad
    assert 0 <= step.x_adv.min() <= step.x_adv.max() <= 1
    if case.ascent.clip:
        assert (step.x_adv - step.x).abs().max() <= step.threat.eps + 1e-12
    assert (step.x_adv - step.x).abs().max() > 0.5 * step.threat.eps
    assert not step.statistics_moved_by_attack


@pytest.mark.parametrize("case", CASES, ids=str)
def test_teacher_is_asked_for_what_is_needed_and_never_trained(case: Case) -> None:
    objective, step = case.build()
    total(objective(step)).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    asked = bool(step.clean_targets or step.taught)
    assert asked == (bool(objective.needs) and case.teacher_in_step)
    assert any(x.requires_grad for x in step.taught) == case.teacher_in_ascent
    assert all(weight.grad is None for weight in step.frozen.parameters())
    assert any(weight.grad is not None for weight in step.net.parameters())


@pytest.mark.parametrize("name", [name for name in sorted(OBJECTIVES) if name != "natural"])
def test_an_l2_ball_is_kept_too(name: str) -> None:
    step = make_step(threat=ThreatModel("L2", 0.5))
    assert math.isfinite(total(build_objective(name)(step)).item())
    if step.x_adv is not None and step.attacks[0].clip:
        assert step.threat.size(step.x_adv - step.x).max() <= 0.5 + 1e-9
