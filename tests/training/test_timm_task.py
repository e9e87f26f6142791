"""The objective in timm's own training loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import rrm_transfer
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.loader import Batch
from rrm_transfer.objectives import build_objective
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.students.student import Student, build_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.training.timm_task import RRMTask
from rrm_transfer.training.updating import Updater
from tests.support import tiny
from tests.training.small import PLAN

THREAT = ThreatModel("Linf", 8 / 255)


def _student(width: int) -> Student:
    return build_student("test_vit", num_classes=4, channels=1, image_size=32, feature_width=width)


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    images, labels = tiny.quarters(16, seed)
    x = torch.nn.functional.pad(torch.from_numpy(images)[:, None] / 255, (2,) * 4)
    return x, torch.from_numpy(labels).long()


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Any) -> Any:
    return load_teacher(str(tiny_teacher), channels=1, image_size=32)


@pytest.mark.parametrize("name", ["rrm", "natural", "kd", "pgd-at"])
def test_the_loss_is_that_of_our_own_loop(name: str, teacher: Any) -> None:
    x, y = _batch()
    ours, theirs = _student(teacher.width), _student(teacher.width)
    plan = replace(PLAN, threat=THREAT, eps_warmup_epochs=0.0, seed=3)
    objective = build_objective(name)
    updater = Updater(
        plan, runtime=Runtime(), student=ours, teacher=teacher, objective=objective, steps_per_epoch=4
    )
    expected = updater.update(ours, 0, Batch(torch.arange(16), x, y, torch.ones(16)))
    task = RRMTask(theirs, teacher, name, threat=THREAT, total_steps=4, seed=3)
    result = task.train()(x, y)
    weights = {term: float(result[term]) for term in result if term not in ("loss", "output")}
    assert weights == pytest.approx({term: float(value) for term, value in expected.items()}, rel=1e-5)
    assert result["output"].shape == (16, 4)


def test_a_loop_like_timms_trains_the_student(teacher: Any) -> None:
    statistics = PixelStatistics((0.3,), (0.25,))
    task = RRMTask(_student(teacher.width), teacher, statistics=statistics, total_steps=12)
    optimizer = torch.optim.AdamW(task.get_trainable_module().parameters(), lr=2e-3)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    task.setup_ema(decay=0.5)
    task.train()
    losses = []
    for step in range(12):
        x, y = _batch(step % 2)
        result = task((x - 0.3) / 0.25, y)
        optimizer.zero_grad()
        result["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 1.0)
        optimizer.step()
        task.update_ema(step)
        losses.append(float(result["loss"].detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    x, _ = _batch()
    for ema in (False, True):
        model = task.get_eval_model(ema=ema)
        assert model is not None
        assert model.eval()((x - 0.3) / 0.25).shape == (16, 4)
    with torch.no_grad():
        expected = task.student.eval()(x).logits
        model = task.get_eval_model()
        assert model is not None
        torch.testing.assert_close(model.eval()((x - 0.3) / 0.25), expected)


def test_a_checkpoint_of_timm_goes_on(teacher: Any) -> None:
    task = RRMTask(_student(teacher.width), teacher, total_steps=4)
    task.train()(*_batch())
    state = task.get_checkpoint_state()
    assert set(state) == {"state_dict", "task_state"}
    assert set(state["state_dict"]) == set(task.student.state_dict())
    student = build_student(
        "test_vit", num_classes=4, channels=1, image_size=32, seed=1, feature_width=teacher.width
    )
    other = RRMTask(student, teacher, total_steps=4)
    other.load_checkpoint_state(state["state_dict"], state["task_state"])
    assert float(other.train()(*_batch())["loss"]) == float(task.train()(*_batch())["loss"])


def test_mistakes_are_told(teacher: Any) -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        RRMTask(_student(8), None, total_steps=4)
    with pytest.raises(UserError, match="several times"):
        RRMTask(_student(8), None, "free-at", total_steps=4)
    anchored = build_objective("kd-adv", anchor="start", anchor_weight=1)
    with pytest.raises(UserError, match="has no anchor"):
        RRMTask(_student(8), teacher, anchored, total_steps=4)
    x, y = _batch()
    with pytest.raises(UserError, match="class indices"):
        RRMTask(_student(teacher.width), teacher, total_steps=4)(x, torch.nn.functional.one_hot(y).float())


def test_it_is_offered_by_the_package() -> None:
    assert rrm_transfer.RRMTask is RRMTask
