"""Averaged weights are those of the equations, computed here on their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer.training.averaging import STATISTICS_BATCHES, LastEpochs, describe_average
from tests.training.small import PLAN, Run, equal

WEIGHTS = ("convolution.weight", "hidden.bias", "classifier.weight")
STATISTICS = ("norm.running_mean", "norm.running_var")


def _history(run: Run) -> list[dict[str, Tensor]]:
    """Runs, and returns the trained weights after each step, in float64 where they are not counts."""
    states: list[dict[str, Tensor]] = []
    run.after_step = lambda: states.append({name: v.double() for name, v in run.weights.items()})
    run()
    return states


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_the_moving_average_is_that_of_the_equation(decay: float, tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, ema=decay))
    states = _history(run)
    expected = states[0]
    for step, state in enumerate(states[1:], start=1):
        kept = min(decay, 1 - (1 + step) ** (-2 / 3))
        expected = {name: kept * expected[name] + (1 - kept) * state[name] for name in expected}
    assert not torch.equal(states[-1]["hidden.bias"], states[0]["hidden.bias"])
    for name in (*WEIGHTS, *STATISTICS):
        torch.testing.assert_close(run.weights[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert run.weights["norm.num_batches_tracked"] == len(states)


def test_the_mean_over_the_last_epochs_is_that_of_their_ends(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=replace(PLAN, epochs=4, average_epochs=3))
    states = _history(run)
    ends = [states[epoch * 5 - 1] for epoch in (2, 3, 4)]
    for name in WEIGHTS:
        mean = torch.stack([state[name] for state in ends]).mean(0)
        torch.testing.assert_close(run.weights[name].double(), mean, rtol=1e-5, atol=1e-6)


def test_statistics_of_the_mean_are_estimated_anew(tmp_path: Path) -> None:
    """On the batches of the last epoch, each counting alike, whatever training left and its momentum."""
    run = Run(tmp_path, plan=replace(PLAN, average_epochs=2))
    run()
    batches = list(islice(run.trainer.loader.epoch(PLAN.epochs - 1), STATISTICS_BATCHES))
    with torch.no_grad():
        seen = [run.student.convolution(batch.x - 0.5).transpose(0, 1).flatten(1) for batch in batches]
    for name, batch_statistic in (("norm.running_mean", "mean"), ("norm.running_var", "var")):
        expected = torch.stack([getattr(activations, batch_statistic)(1) for activations in seen]).mean(0)
        torch.testing.assert_close(run.weights[name], expected)


def test_the_first_attack_of_the_estimation_meets_the_copied_statistics(tmp_path: Path) -> None:
    run = Run(tmp_path, objective="pgd-at", plan=replace(PLAN, average_epochs=2))
    assert run.trainer._average is not None
    means: list[Tensor] = []
    run.trainer._average.network.register_forward_pre_hook(
        lambda network, inputs: None if network.training else means.append(network.norm.running_mean.clone())
    )
    states = _history(run)
    torch.testing.assert_close(means[0].double(), states[-1]["norm.running_mean"])


def test_their_estimation_is_time_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, plan=replace(PLAN, average_epochs=2))
    catching_up = LastEpochs.catching_up

    @contextmanager
    def slowly(self: LastEpochs) -> Iterator[nn.Module]:
        time.sleep(1.0)
        with catching_up(self) as network:
            yield network

    monkeypatch.setattr(LastEpochs, "catching_up", slowly)
    result = run()
    assert result.seconds >= 1.0
    assert Run(tmp_path, plan=run.plan)(resume=True).seconds == result.seconds


def test_statistics_are_those_of_attacked_images_where_the_objective_attacks(tmp_path: Path) -> None:
    run = Run(tmp_path, objective="pgd-at", plan=replace(PLAN, average_epochs=2, eps_warmup_epochs=0.0))
    shown: list[Tensor] = []
    assert run.trainer._average is not None
    run.trainer._average.network.register_forward_pre_hook(
        lambda network, inputs: shown.append(inputs[0].detach()) if network.training else None
    )
    run()
    for x, batch in zip(shown, run.trainer.loader.epoch(PLAN.epochs - 1), strict=True):
        assert 0 < (x - batch.x).abs().max() <= PLAN.threat.eps + 1e-6


@pytest.mark.parametrize("objective", ["rrm", "free-at", "igdm"])
@pytest.mark.parametrize("average", [{"ema": 0.9}, {"average_epochs": 2}], ids=str)
def test_averaging_does_not_change_training(average: dict[str, Any], objective: str, tmp_path: Path) -> None:
    plain = Run(tmp_path / "plain", objective=objective)
    averaged = Run(tmp_path / "averaged", objective=objective, plan=replace(PLAN, **average), select_every=1)
    assert equal(*({n: v.float() for n, v in _history(run)[-1].items()} for run in (plain, averaged)))
    assert plain.losses == averaged.losses
    assert not equal(plain.weights, averaged.weights)


@pytest.mark.parametrize("average", [{"ema": 0.9}, {"average_epochs": 2}], ids=str)
def test_a_finished_phase_gives_the_average_again(average: dict[str, Any], tmp_path: Path) -> None:
    first, again = (Run(tmp_path, plan=replace(PLAN, **average)) for _ in range(2))
    first()
    again(resume=True)
    assert again.of("step") == []
    assert equal(again.weights, first.weights)


def test_what_a_student_holds_is_said_in_words() -> None:
    assert describe_average(ema=None, epochs=0) == "none"
    assert describe_average(ema=0.999, epochs=0) == "exponential moving average, decay 0.999"
    assert describe_average(ema=None, epochs=3) == "mean over 3 epochs"
