from __future__ import annotations

from typing import Any

import pytest
import torch

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.objectives import OBJECTIVES, build_objective, objective_arguments
from rrm_transfer.objectives.inputs import mix
from tests.objectives.fakes import CLASSES, make_step
from tests.objectives.test_equations import ce, cosine, total


def test_student_alone_sees_the_noise() -> None:
    step = make_step()
    build_objective("rrm", noise=0.5)(step)
    (seen,) = step.seen
    assert 0.04 < (seen - step.x).abs().max() <= 0.05 + 1e-12
    assert 0 <= seen.min() <= seen.max() <= 1
    assert (step.clean_targets, step.taught) == (1, [])


def test_mixup_mixes_images_and_labels_alike_for_student_and_teacher() -> None:
    step = make_step()
    mixture = mix(step, 1.0)
    terms = build_objective("rrm", mixup=1.0, ce_weight=0.5)(step)
    (seen,), (taught,) = step.seen, step.taught
    torch.testing.assert_close(seen, mixture.x)
    assert taught is not None
    torch.testing.assert_close(taught, mixture.x)
    student = step.net(mixture.x)
    first, second = ce(student.logits, mixture.own.target), ce(student.logits, mixture.partners.target)
    labels = (mixture.share * first + (1 - mixture.share) * second).mean()
    matched = cosine(student.features, step.frozen(mixture.x).features).mean()
    expected = 0.5 * labels + matched
    torch.testing.assert_close(total(terms), expected, rtol=1e-9, atol=1e-12)
    weights = [*step.net.body.parameters(), *step.net.classifier.parameters()]
    for actual, wanted in zip(
        torch.autograd.grad(total(terms), weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-10)
    assert mixture.labels(CLASSES).target.sum(1).allclose(torch.ones(6, dtype=torch.float64))


def test_each_image_is_a_partner_once() -> None:
    step = make_step(batch=32)
    mixture = mix(step, 1.0)
    weight = mixture.share.view(-1, 1, 1, 1)
    partners = (mixture.x - weight * step.x) / (1 - weight)
    distance = (partners[:, None] - step.x[None]).abs().flatten(2).amax(2)
    assert sorted(distance.argmin(1).tolist()) == list(range(32))
    assert distance.amin(1).max() < 1e-6


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    step = make_step(batch=2)
    step.randomness = Randomness(0, 0, torch.arange(20_000))
    step.x, step.y = torch.zeros(20_000, 1, 1, 1), torch.zeros(20_000, dtype=torch.int64)
    share = mix(step, alpha).share
    assert 0 <= share.min() <= share.max() <= 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)


_VARIANTS: list[dict[str, Any]] = [
    {},
    {"adversarial_share": 0.5},
    {"igdm_weight": 1.0},
    {"mixup": 0.5},
    {"target": "adversarial"},
    {"target": "adversarial", "ascend": "ce"},
    {"target": "adversarial", "ascend": "ce", "clean_kd_weight": 1.0},
    {"weighting": "entropy"},
]


@pytest.mark.parametrize(
    ("objective", "arguments"),
    [
        (name, variant)
        for name in sorted(OBJECTIVES)
        for variant in _VARIANTS
        if variant.keys() <= {argument.name for argument in objective_arguments(name)}
        if build_objective(name).needs
    ],
)
def test_objectives_say_what_they_ask_the_teacher_about(objective: str, arguments: dict[str, Any]) -> None:
    made = build_objective(objective, **arguments)
    step = make_step(progress=0.9)
    made(step)
    asked = {"clean": step.clean_targets > 0, "other": len(step.taught) > 0}
    assert made.teacher_sees == {sight for sight, happened in asked.items() if happened}
