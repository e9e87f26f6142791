"""The best weights by the held-out part are found, kept, and found again after an interruption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import Interrupted
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import Row, row
from rrm_transfer.runtime.context import Context
from rrm_transfer.training.selection import STEPS, Selection, held_out_judge
from tests.training.small import PLAN, SIZE, Network, Run, equal, small_images

PHASE = replace(PLAN, epochs=4)  # of five steps each


class Scripted:
    """A judge that gives the accuracies of a script, of 100 images, and remembers what it was shown."""

    def __init__(self, script: Iterable[tuple[int, int]]) -> None:
        self._script = iter(script)
        self.shown: list[dict[str, Tensor]] = []

    def __call__(self, network: nn.Module) -> list[Row]:
        clean, robust = next(self._script)
        self.shown.append({name: value.clone() for name, value in network.state_dict().items()})
        attack: dict[str, Any] = {"attack": "pgd", "norm": "Linf", "eps": 0.1, "steps": 10, "restarts": 1}
        return [
            row("student", "held-out", Proportion(clean, 100)),
            row("student", "held-out", Proportion(robust, 100), **attack),
        ]


@pytest.mark.parametrize(
    ("script", "best"),
    [
        ([(90, 10), (80, 30), (95, 20), (96, 5)], 2),  # the most robust, not the most accurate
        ([(90, 10), (80, 30), (85, 30), (80, 30)], 3),  # of equally robust ones the most accurate
        ([(90, 30), (90, 30), (90, 30), (90, 30)], 1),  # of equals the first
        ([(0, 0), (0, 0), (0, 0), (0, 1)], 4),
    ],
)
def test_the_best_weights_are_kept(script: list[tuple[int, int]], best: int, tmp_path: Path) -> None:
    judge = Scripted(script)
    run = Run(tmp_path, plan=PHASE, select_every=1, judge=judge)
    run()
    assert run.selection is not None
    assert run.selection.score is not None
    assert run.selection.score.step == 5 * best
    assert equal(run.selection.weights, judge.shown[best - 1])
    assert equal(run.weights, judge.shown[-1])  # the student has the last ones


def test_evaluations_are_logged(tmp_path: Path) -> None:
    run = Run(tmp_path, plan=PHASE, select_every=3, judge=Scripted([(90, 40), (95, 30)]))
    run()
    common = {"event": "selection", "model": "student", "count": 100, "eps": 0.1, "norm": "Linf", "steps": 10}
    assert run.of("selection") == [
        {**common, "step": 15, "clean": 0.9, "robust": 0.4, "best": True},
        {**common, "step": 20, "clean": 0.95, "robust": 0.3, "best": False},
    ]


def test_selection_does_not_change_training(tmp_path: Path) -> None:
    runs = [Run(tmp_path / str(every), select_every=every, network={"dropout": 0.5}) for every in (None, 1)]
    for run in runs:
        run()
    assert equal(runs[0].weights, runs[1].weights)
    assert runs[0].losses == runs[1].losses


@pytest.mark.parametrize("average", [{"ema": 0.9}, {"average_epochs": 2}], ids=str)
def test_what_is_selected_is_the_average(average: dict[str, Any], tmp_path: Path) -> None:
    judge = Scripted([(1, 1), (2, 2), (3, 3), (4, 4)])
    run = Run(tmp_path, plan=replace(PHASE, **average), select_every=1, judge=judge)
    run()
    assert run.selection is not None
    assert equal(run.selection.weights, run.weights)
    plain = Run(tmp_path / "plain", plan=PHASE)
    plain()
    assert not equal(plain.weights, run.weights)


def test_the_judge_measures_as_the_evaluation_does(tmp_path: Path) -> None:
    images, network, threat = small_images(), Network().train(), PLAN.threat.with_eps(0.1)
    how = Measurement(SIZE, batch_size=20, seed=3, context=Context.begin())
    clean, robust = held_out_judge(images, threat, how)(network)
    attacks = [how.pgd(threat, steps=STEPS)]
    expected = how.rows(network, images, attacks, model="student", split="held-out")
    assert [clean, robust] == expected
    assert (robust.eps, robust.steps, robust.count) == (0.1, 10, len(images))
    assert not network.training


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_evaluation_that_was_cut_short_is_made_again(at: int, tmp_path: Path) -> None:
    script = [(90, 10), (80, 30), (95, 20), (96, 5)]
    whole = Run(tmp_path / "whole", plan=PHASE, select_every=1, judge=Scripted(script))
    whole()

    def die(network: nn.Module) -> list[Row]:
        if len(first.shown) + 1 == at:
            raise _KilledError
        return first(network)

    first, second = Scripted(script), Scripted(script[at - 1 :])
    with pytest.raises(_KilledError):
        Run(tmp_path / "parts", plan=PHASE, select_every=1, judge=die)()
    resumed = Run(tmp_path / "parts", plan=PHASE, select_every=1, judge=second)
    resumed(resume=True)
    assert resumed.of("resume")[0]["step"] == 5 * at  # saved before the evaluation
    assert [event["step"] for event in resumed.of("selection")] == list(range(5 * at, 21, 5))
    for run in (whole, resumed):
        assert run.selection is not None
        assert run.selection.score is not None
        assert run.selection.score.step == 10
    assert whole.selection is not None
    assert resumed.selection is not None
    assert equal(whole.selection.weights, resumed.selection.weights)
    assert equal(whole.weights, resumed.weights)


def test_every_checkpoint_holds_the_best_weights_so_far(tmp_path: Path) -> None:
    """A damaged one is stepped over, and what it knew is found again."""
    script = [(90, 10), (80, 30), (95, 20), (96, 5)]
    with pytest.raises(Interrupted):
        Run(tmp_path, plan=PHASE, select_every=1, judge=Scripted(script), stop_after=17)()
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["student-00000015", "student-00000017"]
    file = tmp_path / names[1] / "state.safetensors"
    content = file.read_bytes()
    at = content.index(b"best/")
    file.write_bytes(content[:at] + b"tset/" + content[at + 5 :])
    judge = Scripted(script[2:])
    resumed = Run(tmp_path, plan=PHASE, select_every=1, judge=judge)
    resumed(resume=True)
    assert "student-00000017 is damaged" in resumed.warnings[0]
    assert resumed.of("resume")[0]["step"] == 15
    assert resumed.selection is not None
    assert resumed.selection.score is not None
    assert (resumed.selection.score.step, resumed.selection.score.robust) == (10, 30)
    assert equal(resumed.selection.weights, _weights_after(10, tmp_path / "again"))


def _weights_after(step: int, folder: Path) -> dict[str, Tensor]:
    run = Run(folder, plan=PHASE, stop_after=step)
    with pytest.raises(Interrupted):
        run()
    return run.weights


def test_time_of_selection_is_no_time_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    plain = Run(tmp_path / "plain")()

    def slow(network: nn.Module) -> list[Row]:
        for _ in range(1000):
            next(clock)
        return Scripted([(1, 1)])(network)

    selecting = Run(tmp_path / "selecting", select_every=1, judge=slow)
    result = selecting()
    assert selecting.selection is not None
    assert selecting.selection.seconds > 2000
    assert result.seconds < plain.seconds + 100


def test_nothing_is_due_before_training_or_twice() -> None:
    selection = Selection(Scripted([(1, 1)] * 9), every=2)
    places = {"steps_per_epoch": 3, "total_steps": 10}
    due = [step for step in range(11) if selection.is_due(step, **places)]
    assert due == [6, 10]
    selection.evaluate(Network(), 6)
    assert not selection.is_due(6, **places)
    assert torch.equal(selection.weights["hidden.bias"], Network().hidden.bias)
