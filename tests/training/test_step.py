"""A batch as an objective sees it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives import build_objective
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.students.student import build_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.training.step import TrainingStep, evaluation_mode, pair
from tests.training.small import PLAN, SIZE, Network, Run, equal, frozen_teacher


def _step(student: Network, **changes: Any) -> TrainingStep:
    x = torch.rand(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {
        "autocast": nullcontext,
        "prepared": student,
        "bare": student,
        "frozen": frozen_teacher(),
        "x": x,
        "y": torch.arange(6) % 4,
        "label_weight": torch.ones(6),
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


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_attacks_in_training_mode_normalize_by_the_batch_and_move_its_statistics(mode: Any) -> None:
    student = Network().train()
    step = _step(student, attack_mode=mode)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    modes: list[bool] = []

    def loss(x: Tensor) -> Tensor:
        modes.append(student.training)
        return step.student_eval(x).logits.square().sum(1)

    x_adv = step.attack(loss, InnerAttack(2, 0.5, start="none"))
    assert modes == [mode == "training"] * 2
    assert student.training
    assert student.norm.num_batches_tracked == (2 if mode == "training" else 0)
    moved = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    assert all(name.startswith("norm.") for name in moved)  # statistics, no weights
    twin = Network().train(mode == "training")
    x = step.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(x).logits.square().sum(), x)
    first = (step.x + 0.05 * gradient.sign()).clamp(0, 1)
    one = _step(Network().train(), attack_mode=mode)
    once = InnerAttack(1, 0.5, start="none")
    torch.testing.assert_close(one.attack(partial(_energy, one), once), first)
    assert not torch.equal(x_adv, first)


def test_the_teacher_sees_the_clean_batch_once_and_without_gradient() -> None:
    step = _step(Network())
    assert step.clean_teacher() is step.clean_teacher()
    assert not step.clean_teacher().features.requires_grad
    x = step.x.clone().requires_grad_()
    assert step.teacher(x).features.requires_grad
    with pytest.raises(ValueError, match="no teacher"):
        _step(Network(), frozen=None).clean_teacher()


def test_no_dropout_stands_before_what_is_matched(tiny_teacher: Path) -> None:
    teacher = load_teacher(str(tiny_teacher), channels=1, image_size=32)

    def paired(objective: str, **args: object) -> None:
        student = build_student(
            "test_vit", num_classes=4, channels=1, image_size=32, feature_width=teacher.width, args=args
        )
        pair(student, teacher, build_objective(objective), seed=0, takes_classifier=False)

    with pytest.raises(UserError, match=r"dropout stands in front[\s\S]*drop_rate=0.5"):
        paired("rrm", drop_rate=0.5)
    paired("rrm", drop_rate=0.0, drop_path_rate=0.5)
    paired("kd", drop_rate=0.5)


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


def test_the_teacher_keeps_nothing_for_a_backward_pass_that_nobody_makes() -> None:
    step = _step(Network())
    modes: list[bool] = []

    def look(*_: object) -> None:
        modes.append(torch.is_inference_mode_enabled())

    assert step.frozen is not None
    step.frozen.register_forward_hook(look)
    target = step.clean_teacher()
    loss = (step.student(step.x).features * target.features).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]  # what was inferred may enter a loss
    step.teacher(step.x.clone().requires_grad_())
    assert modes == [True, False]


def _energy(step: TrainingStep, x: Tensor) -> Tensor:
    return step.student_eval(x).logits.square().sum(1)


def test_attacks_compute_no_gradients_of_weights() -> None:
    """Operations are counted: an attack on frozen weights takes as many."""
    counts = {}
    for frozen in (False, True):
        student = Network().train().requires_grad_(not frozen)
        step = _step(student)
        with FlopCounterMode(display=False) as counter:
            step.attack(partial(_energy, step), InnerAttack(3, 0.5))
        counts[frozen] = counter.get_total_flops()
    assert counts[False] == counts[True] > 0

    student = Network().train()
    step = _step(student)
    with FlopCounterMode(display=False) as counter:
        step.student(step.x).logits.square().sum().backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() > counts[False] / 3  # one pass with gradients of weights


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Records what makes the host wait for a device: values that it reads, and tensors of unknown size."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.names:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", ["natural", "rrm", "rrm-adv", "igdm", "free-at"])
def test_a_step_reads_no_value_of_the_device(objective: str, tmp_path: Path) -> None:
    plan = replace(PLAN, clip_grad=1.0, log_every=100)
    trainer = Run(tmp_path, objective=objective, plan=plan).trainer
    batches, updater = trainer._batches(), trainer._updater
    updater.update(updater.student, *next(batches))  # creates the optimizer's state
    batch = next(batches)
    with _Reads() as reads:
        updater.update(updater.student, *batch)
    assert reads.found == []


class _WeightGradients(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Records whether convolutions' backward passes compute the gradients of their weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "convolution_backward":
            self.asked.append(bool(args[-1][1]))
        return func(*args, **(kwargs or {}))


def test_compiled_attacks_compute_no_gradients_of_weights() -> None:
    """A compiled backward pass computes those of all weights that have any, whatever is asked for."""
    student = Network().train()
    step = _step(student)
    student.compile(backend="aot_eager")
    with _WeightGradients() as convolutions:
        step.attack(partial(_energy, step), InnerAttack(2, 0.5))
    assert convolutions.asked == [False, False]
    assert all(weight.requires_grad for weight in student.parameters())
    assert student.training


def test_an_attack_visits_the_parts_of_a_network_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into evaluation mode and back, not at each of its steps."""
    student = Network().train()
    step, visits = _step(student), []
    visit = nn.Module.train

    def counted(self: nn.Module, mode: bool = True) -> nn.Module:
        if self is student:
            visits.append(mode)
        return visit(self, mode)

    monkeypatch.setattr(nn.Module, "train", counted)
    step.attack(partial(_energy, step), InnerAttack(5, 0.5))
    assert visits == [False, True]


def test_a_step_leaves_a_network_that_trains_in_that_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Run(tmp_path).trainer
    batches, updater = trainer._batches(), trainer._updater
    updater.update(updater.student, *next(batches))

    def forbidden(*_: object) -> None:
        raise AssertionError("its parts are visited for nothing")

    monkeypatch.setattr(type(updater.student), "train", forbidden)
    updater.update(updater.student, *next(batches))
