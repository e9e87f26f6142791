"""The loop: what is trained, what is not, what is logged, and exact continuation."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.training.updating import TrainingPlan
from tests.training.small import PLAN, Run, equal, small_images, with_optimization

STEPS = 10  # two epochs of five batches

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"plan": replace(PLAN, precision="bf16")},
    "accumulation": {"plan": replace(PLAN, accumulation=2)},
    "dropout": {"network": {"dropout": 0.5}},
    "channels_last": {"plan": replace(PLAN, channels_last=True)},
    "adamw": {"plan": replace(with_optimization(PLAN, optimizer="adamw", lr=1e-3), clip_grad=1.0)},
    "pgd-at": {"objective": "pgd-at", "arguments": {"steps": 2}},
    "moving average, bf16": {"plan": replace(PLAN, ema=0.9, precision="bf16"), "network": {"dropout": 0.5}},
    "mean over the last epochs": {"plan": replace(PLAN, average_epochs=2), "network": {"dropout": 0.5}},
    "selection, bf16": {"plan": replace(PLAN, precision="bf16"), "select_every": 1},
    "selection of a moving average": {"plan": replace(PLAN, ema=0.9), "select_every": 1},
    "selection of a mean": {"plan": replace(PLAN, epochs=4, average_epochs=3), "select_every": 1},
    "layers": {
        "objective": "rrm",
        "arguments": {"student_layers": [0, 1], "layer_weights": [1, 2]},
        "network": {"layers": 2},
    },
    "free-at": {"objective": "free-at", "arguments": {"replays": 3}},
    "free-at, accumulation, bf16": {
        "objective": "free-at",
        "arguments": {"replays": 2},
        "plan": replace(PLAN, accumulation=2, precision="bf16"),
    },
    "free-at, selection of a mean": {
        "objective": "free-at",
        "arguments": {"replays": 2},
        "plan": replace(PLAN, epochs=4, average_epochs=3),
        "select_every": 1,
    },
    "attacks on the last part": {"objective": "kd-adv", "arguments": {"begin": 0.7}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_goes_on_bit_for_bit(variant: str, tmp_path: Path) -> None:
    options = VARIANTS[variant]
    whole = Run(tmp_path / "whole", **options)
    result = whole()
    stop_after = result.steps // 2 + 1  # in the middle of an epoch, and of the replays of a batch
    stopped = Run(tmp_path / "parts", **options, stop_after=stop_after)
    with pytest.raises(Interrupted, match=f"step {stop_after} of {result.steps}"):
        stopped()
    resumed = Run(tmp_path / "parts", **options)
    assert resumed(resume=True).steps == result.steps
    assert resumed.of("resume") == [{"event": "resume", "model": "student", "step": stop_after}]
    assert equal(resumed.weights, whole.weights)
    assert stopped.losses + resumed.losses == whole.losses
    first, second = (
        (tmp_path / name / "student-final" / "state.safetensors").read_bytes() for name in ("whole", "parts")
    )
    assert first == second  # optimizer and objective, too


def test_a_finished_phase_is_not_trained_again(tmp_path: Path) -> None:
    first = Run(tmp_path)
    result = first()
    again = Run(tmp_path)
    assert again(resume=True) == result
    assert again.of("step") == []
    assert equal(again.weights, first.weights)


def test_resume_starts_where_there_is_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run(resume=True)
    assert run.of("resume") == []
    assert len(run.losses) == STEPS


def test_without_resume_checkpoints_are_ignored(tmp_path: Path) -> None:
    Run(tmp_path)()
    run = Run(tmp_path)
    run()
    assert len(run.losses) == STEPS


def test_time_is_counted_over_all_sessions(tmp_path: Path) -> None:
    stopped = Run(tmp_path, stop_after=6)
    with pytest.raises(Interrupted):
        stopped()
    resumed = Run(tmp_path)
    result = resumed(resume=True)
    assert result.seconds > stopped.trainer._seconds > 0
    assert result.images == STEPS * 9
    assert result.images_per_second == pytest.approx(result.images / result.seconds)


def test_replays_are_steps_but_not_images(tmp_path: Path) -> None:
    result = Run(tmp_path, objective="free-at", arguments={"replays": 3})()
    assert (result.steps, result.images) == (3 * STEPS, STEPS * 9)


def test_teacher_stays_as_it_was_and_the_student_does_not(tmp_path: Path) -> None:
    run = Run(tmp_path)
    before, teacher = run.weights, {n: v.clone() for n, v in run.teacher.state_dict().items()}
    run()
    assert equal(teacher, dict(run.teacher.state_dict()))
    assert not run.teacher.training
    assert all(weight.grad is None for weight in run.teacher.parameters())
    assert all(not torch.equal(before[name], value) for name, value in run.weights.items())


def test_attacks_leave_batch_statistics_alone(tmp_path: Path) -> None:
    counts = {}
    for steps in (1, 4):
        run = Run(tmp_path / str(steps), objective="pgd-at", arguments={"steps": steps})
        run()
        counts[steps] = int(run.weights["norm.num_batches_tracked"])
    assert counts == {1: STEPS, 4: STEPS}


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Unequal parts (5 and 4 images) of a network without batch statistics."""
    weights = []
    for accumulation in (1, 2):
        plan = replace(with_optimization(PLAN, optimizer="sgd"), accumulation=accumulation)
        run = Run(tmp_path / str(accumulation), plan=plan, network={"norm": "layer"})
        run()
        weights.append(run.weights)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6)


def test_logged_losses_are_means_and_checkpoints_do_not_shorten_them(tmp_path: Path) -> None:
    each = Run(tmp_path / "each")
    each()
    every = Run(tmp_path / "every", plan=replace(PLAN, log_every=4, checkpoint_minutes=0))
    every()
    assert [entry["step"] for entry in every.of("step")] == [4, 8, 10]
    assert [entry["step"] for entry in every.of("checkpoint")] == [*range(1, 10), 10]
    for losses, window in zip(every.losses, (slice(0, 4), slice(4, 8), slice(8, 10)), strict=True):
        for name, value in losses.items():
            values = [entry[name] for entry in each.losses[window]]
            assert value == pytest.approx(sum(values) / len(values), rel=1e-6)


def test_step_events_tell_epoch_and_rate(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=with_optimization(PLAN, schedule="constant", warmup_epochs=0.0))
    run()
    assert [entry["epoch"] for entry in run.of("step")] == [0] * 5 + [1] * 5
    assert {entry["lr"] for entry in run.of("step")} == {0.05}
    assert all(entry["images_per_s"] > 0 for entry in run.of("step"))


def test_the_newest_two_checkpoints_are_kept_and_one_beside_the_final(tmp_path: Path) -> None:
    plan = replace(PLAN, checkpoint_minutes=0)
    with pytest.raises(Interrupted):
        Run(tmp_path, plan=plan, stop_after=7)()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student-00000006", "student-00000007"]
    Run(tmp_path, plan=plan)(resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student-00000009", "student-final"]


def test_phases_do_not_mix_their_checkpoints(tmp_path: Path) -> None:
    Run(tmp_path)()
    control = Run(tmp_path, plan=replace(PLAN, model="control"), objective="natural")
    control(resume=True)
    assert control.of("resume") == []


def _endless(plan: TrainingPlan = PLAN) -> TrainingPlan:
    return replace(with_optimization(plan, lr=1e30, warmup_epochs=0.0, schedule="constant"), log_every=4)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(tmp_path: Path) -> None:
    plan = replace(_endless(), checkpoint_minutes=0)
    with pytest.raises(UserError, match="not finite") as caught:
        Run(tmp_path, plan=plan, objective="natural")()
    assert "epoch 1, batch" in str(caught.value)
    kept = Run(tmp_path, objective="natural", stop_after=1)
    checkpoint, _ = kept.trainer._checkpoints.newest()
    assert checkpoint is None or all(value.isfinite().all() for value in checkpoint.tensors.values())


def test_the_step_and_term_of_a_bad_loss_are_exact(tmp_path: Path) -> None:
    images = small_images()
    run = Run(
        tmp_path, plan=replace(PLAN, log_every=5, checkpoint_minutes=0), objective="natural", images=images
    )
    objective, calls = run.trainer.objective, []

    def poisoned(step: Any) -> Any:
        calls.append(step)
        terms = type(objective).__call__(objective, step)
        return [term._replace(value=term.value * math.inf) for term in terms] if len(calls) == 4 else terms

    run.trainer._updater.objective = poisoned  # type: ignore[assignment]
    poisoned.replays = 1  # type: ignore[attr-defined]
    poisoned.state_dict = objective.state_dict  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"'ce' is not finite at step 4, epoch 1, batch 4"):
        run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student-00000002", "student-00000003"]


def test_eps_rises_to_its_full_value(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, eps_warmup_epochs=1.0))
    seen = []
    for step in range(7):
        run.trainer._updater.step = step
        seen.append(run.trainer._updater._threat().eps / PLAN.threat.eps)
    assert seen == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])


def test_a_term_that_waits_for_its_part_of_training_is_logged_from_then_on(tmp_path: Path) -> None:
    run = Run(tmp_path, objective="iad", arguments={"begin": 0.5}, plan=replace(PLAN, log_every=4))
    run()
    assert "introspection" not in run.losses[0]
    assert all(losses["introspection"] > 0 for losses in run.losses[1:])


@pytest.mark.parametrize("slow", [True, False])
def test_a_loop_that_waits_for_its_images_says_so(
    slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, plan=replace(PLAN, epochs=1))
    notes: list[str] = []
    batches = run.trainer.loader.batches

    def stream(*args: Any, **kwargs: Any) -> Any:
        for batch in batches(*args, **kwargs):
            time.sleep(0.2 if slow else 0.0)
            yield batch

    monkeypatch.setattr(run.trainer.loader, "batches", stream)
    monkeypatch.setattr(run.trainer._narrator, "note", notes.append)
    run()
    shares = [entry["data_share"] for entry in run.of("step")]
    if slow:
        assert shares[-1] > 0.5
        assert any("waiting for images" in note for note in notes)
    assert all(0 <= share <= 1 for share in shares)
