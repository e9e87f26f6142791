"""Compiled and checkpointed students train as they do plainly; memory that runs out is explained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import Row, row
from rrm_transfer.objectives import build_objective
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.memory import is_out_of_memory
from rrm_transfer.students.student import Student, build_student
from rrm_transfer.training.execution import can_replay, executing, set_checkpointing
from rrm_transfer.training.optimization import build_optimizer
from rrm_transfer.training.selection import Selection, held_out_judge
from rrm_transfer.training.step import TrainingStep
from tests.training.small import PLAN, SIZE, Network, Run, equal, small_images, with_optimization


def _student() -> Student:
    return build_student("test_resnet", num_classes=4, channels=1, image_size=32)


def _gradients(student: Student, x: torch.Tensor) -> list[torch.Tensor]:
    student(x).logits.square().mean().backward()
    return [weight.grad for weight in student.parameters() if weight.grad is not None]


def test_checkpointing_gives_the_same_gradients_and_ends_with_training() -> None:
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, saving = _student(), _student()
    expected = _gradients(plain, x)
    with executing(saving, compiled=False, checkpointing=True):
        assert saving.model.grad_checkpointing
        actual = _gradients(saving, x)
    assert not saving.model.grad_checkpointing
    assert len(actual) == len(expected) > 10
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_attacks_are_the_same_under_checkpointing_and_move_no_statistics() -> None:
    """Their backward pass computes activations again, in evaluation mode as at first."""
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    student = _student().train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    step = TrainingStep(
        autocast=nullcontext,
        prepared=student,
        bare=student,
        frozen=None,
        x=x,
        y=torch.arange(4),
        label_weight=torch.ones(4),
        threat=PLAN.threat,
        randomness=Randomness(0, 0, torch.arange(4)),
        progress=0.0,
        first=0,
    )

    def attacked() -> torch.Tensor:
        return step.attack(lambda x: step.student_eval(x).logits.square().sum(1), InnerAttack(2, 0.5))

    expected = attacked()
    with executing(student, compiled=False, checkpointing=True):
        torch.testing.assert_close(attacked(), expected)
    assert student.training
    assert equal(before, dict(student.state_dict()))


def test_batch_statistics_are_entered_once_under_checkpointing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrm_transfer.training.execution.set_checkpointing", lambda *_: None)
    plain = Run(tmp_path / "plain", plan=replace(PLAN, epochs=1))
    saving = Run(tmp_path / "saving", plan=replace(PLAN, epochs=1, gradient_checkpointing=True))
    forward = saving.student.forward

    def twice(x: torch.Tensor) -> Any:
        outputs = forward(x)
        if saving.student.training:
            outputs.logits.register_hook(lambda _: forward(x) and None)  # type: ignore[no-untyped-call]
        return outputs

    monkeypatch.setattr(saving.student, "forward", twice)
    plain()
    saving()
    for name, value in plain.weights.items():
        torch.testing.assert_close(saving.weights[name], value)


def test_a_student_without_checkpointing_is_refused() -> None:
    with pytest.raises(UserError, match="no gradient checkpointing"):
        set_checkpointing(Network(), True)


def test_a_compiled_student_learns_the_same_and_is_plain_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module: Callable[..., None] = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compile_module(self, backend="eager"))
    plain, compiled = (Run(tmp_path / str(c), plan=replace(PLAN, epochs=1, compile=c)) for c in (False, True))
    plain()
    compiled()
    assert compiled.student._compiled_call_impl is None
    for name, value in plain.weights.items():
        torch.testing.assert_close(compiled.weights[name], value)


def test_a_compiled_step_runs_one_graph_of_the_student_and_one_of_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module: Callable[..., None] = nn.Module.compile
    ran: list[int] = []

    def backend(graph: Any, inputs: object) -> Callable[..., Any]:
        number = len(ran)
        ran.append(0)

        def run(*args: Any) -> Any:
            ran[number] += 1
            return graph(*args)

        return run

    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compile_module(self, backend=backend))
    run = Run(tmp_path, plan=replace(PLAN, epochs=1, compile=True))
    run()
    assert ran == [5, 5], "one graph of each, in each of five steps"
    assert run.teacher._compiled_call_impl is None


@pytest.mark.parametrize(
    ("objective", "changes", "expected"),
    [
        ("natural", {}, True),
        ("rrm", {}, True),
        ("kd", {"device": torch.device("cpu")}, False),
        ("kd", {"processes": 2}, False),
        ("kd", {"accumulation": 2}, False),
        ("trades", {}, False),
        ("rrm-adv", {}, False),
        ("free-at", {}, False),
    ],
)
def test_launches_are_replayed_where_nothing_comes_between(
    objective: str, changes: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine: dict[str, Any] = {"device": torch.device("cuda", 0), "processes": 1, "accumulation": 1}
    replayed = can_replay(build_objective(objective), **(machine | changes))
    assert replayed is expected
    modes: list[str | None] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *, mode: modes.append(mode))
    with executing(Network(), compiled=True, checkpointing=False, teacher=Network(), replayed=replayed):
        pass
    assert modes == ["reduce-overhead" if expected else None] * 2


def test_a_deterministic_run_asks_for_it_while_it_trains(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def asked() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic

    before = asked()
    Run(tmp_path, plan=replace(PLAN, epochs=1, deterministic=True), after_step=lambda: seen.append(asked()))()
    assert seen == [(True, True)] * 5
    assert asked() == before == (False, False)


def test_a_compiler_that_fails_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: object) -> Any:
        raise ValueError("no compiler here")

    compile_module: Callable[..., None] = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compile_module(self, backend=backend))
    with pytest.raises(UserError, match=r"torch\.compile could not compile") as caught:
        Run(tmp_path, plan=replace(PLAN, compile=True))()
    assert caught.value.hint == "--set train.compile=false"


@pytest.mark.parametrize(("most", "accumulation"), [(4, 3), (1, 9), (0, None)])
def test_memory_that_runs_out_names_the_batch_that_fits(
    most: int, accumulation: int | None, tmp_path: Path
) -> None:
    run = Run(tmp_path)  # batches of 9
    objective = run.trainer._updater.objective

    def greedy(step: Any) -> Any:
        if len(step.x) > most:
            raise torch.OutOfMemoryError("out of memory")
        return type(objective).__call__(objective, step)

    greedy.replays = 1  # type: ignore[attr-defined]
    run.trainer._updater.objective = greedy  # type: ignore[assignment]
    with pytest.raises(UserError, match="Memory ran out with 9 images in a forward pass") as caught:
        run()
    assert caught.value.hint is not None
    if accumulation is None:
        assert "not even one fits" in caught.value.what
    else:
        assert f"{most} fit" in caught.value.what
        assert f"train.accumulation={accumulation}," in caught.value.hint


def test_other_errors_are_not_taken_for_memory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    run = Run(tmp_path)

    def wrong(_: object) -> None:
        raise RuntimeError("shapes differ")

    wrong.replays = 1  # type: ignore[attr-defined]
    run.trainer._updater.objective = wrong  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="shapes differ"):
        run()


@pytest.mark.parametrize(("name", "fused"), [("momentum", True), ("adamw", True), ("lamb", False)])
def test_one_kernel_moves_all_weights_where_torch_has_one(name: str, fused: bool) -> None:
    optimizer = build_optimizer(Network(), with_optimization(PLAN, optimizer=name).optimization)
    assert bool(optimizer.defaults.get("fused")) == fused


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_fused_steps_are_the_plain_ones(name: str) -> None:
    """Also where weights lie channels last, as gradients and momentum then do."""
    networks = [Network(norm="layer").to(memory_format=torch.channels_last) for _ in range(2)]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for network, fused in zip(networks, (True, False), strict=True):
        optimizer = build_optimizer(network, with_optimization(PLAN, optimizer=name).optimization)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(3):
            network(x.to(memory_format=torch.channels_last)).logits.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for mine, theirs in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_advice_needs_nothing_that_older_versions_of_torch_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.accelerator, "empty_cache", raising=False)
    test_memory_that_runs_out_names_the_batch_that_fits(4, 3, tmp_path)


def test_selection_sees_the_plain_network(tmp_path: Path) -> None:
    """Its batches have other shapes, for each of which a compiled one would be compiled again."""
    student = Network()
    student.compile(backend="eager")
    compiled = student._compiled_call_impl
    seen: list[Any] = []

    def judge(network: nn.Module) -> list[Row]:
        seen.append(network._compiled_call_impl)
        return [row("student", "held-out", Proportion(1, 2), attack=name) for name in ("none", "pgd")]

    Selection(judge, every=1).evaluate(student, 1)
    assert seen == [None]
    assert student._compiled_call_impl is compiled is not None


class Greedy(nn.Module):
    """Has memory for a number of images, with gradients for fewer."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.network, self.most = Network(), most

    def forward(self, x: torch.Tensor) -> Any:
        if len(x) > (self.most if x.requires_grad else 2 * self.most):
            raise torch.OutOfMemoryError("out of memory")
        return self.network(x)


@pytest.mark.parametrize(("most", "batch", "fits"), [(4, 16, 4), (4, 8, 4), (1, 10, 1)])
def test_selection_names_the_batch_that_fits(most: int, batch: int, fits: int) -> None:
    """A clean batch that fits is no sign that one under attack does."""
    measurement = Measurement(SIZE, batch_size=batch, seed=0, context=Context.begin())
    judge = held_out_judge(small_images(), PLAN.threat, measurement)
    with pytest.raises(UserError, match=f"Memory ran out with {batch} images .* {fits} fit") as caught:
        judge(Greedy(most))
    assert f"--set evaluate.batch_size={fits}" in str(caught.value.hint)


def test_evaluation_says_where_nothing_fits() -> None:
    measurement = Measurement(SIZE, batch_size=8, seed=0, context=Context.begin())
    judge = held_out_judge(small_images(), PLAN.threat, measurement)
    with pytest.raises(UserError, match="not even one fits"):
        judge(Greedy(0))
