"""A batch as an objective sees it."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.engine.runtime import Runtime
from rrm_transfer.engine.step import TrainingStep, evaluation_mode
from rrm_transfer.objectives.base import InnerAttack
from tests.engine.small import SIZE, Network, equal, frozen_teacher


def _step(student: Network, **changes: Any) -> TrainingStep:
    x = torch.rand(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {
        "autocast": nullcontext,
        "prepared": student,
        "bare": student,
        "frozen": frozen_teacher(),
        "x": x,
        "y": torch.arange(6) % 4,
        "threat": ThreatModel("Linf", 0.1),
        "randomness": Randomness(0, 0, torch.arange(6)),
        "progress": 0.0,
        "first": 0,
    }
    return TrainingStep(**{**settings, **changes})


def test_the_student_trains_and_attacks_do_not() -> None:
    student = Network().train()
    step = _step(student)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    x_adv = step.attack(lambda x: step.student_eval(x).logits.square().sum(1), InnerAttack(2, 0.5))
    assert student.training
    assert equal(before, dict(student.state_dict()))
    assert all(weight.grad is None for weight in student.parameters())
    assert not x_adv.requires_grad
    assert float((x_adv - step.x).abs().max()) <= 0.1 + 1e-6
    step.student(step.x)
    assert not equal(before, dict(student.state_dict()))


def test_the_teacher_sees_the_clean_batch_once_and_without_gradient() -> None:
    step = _step(Network())
    assert step.clean_teacher() is step.clean_teacher()
    assert not step.clean_teacher().features.requires_grad
    x = step.x.clone().requires_grad_()
    assert step.teacher(x).features.requires_grad
    with pytest.raises(ValueError, match="no teacher"):
        _step(Network(), frozen=None).clean_teacher()


def test_outputs_are_float32_under_bf16() -> None:
    contexts = [partial(Runtime().autocast, precision) for precision in ("float32", "bf16")]
    exact, rough = (_step(Network(norm="layer"), autocast=context) for context in contexts)
    first, second = exact.student(exact.x), rough.student(rough.x)
    assert second.logits.dtype == second.features.dtype == torch.float32
    assert not torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.logits, second.logits, rtol=0.1, atol=0.05)


def test_evaluation_mode_ends_also_after_an_error() -> None:
    network = Network().train()

    def fail() -> None:
        with evaluation_mode(network):
            assert not network.training
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert network.training
