"""Steps with a loss or gradient that is not finite are undone, named and counted, up to a limit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.objectives.base import Term
from rrm_transfer.training.updating import TrainingPlan
from tests.training.small import PLAN, Run, equal

STEPS = 10


class _Spike(torch.autograd.Function):
    """Leaves the loss as it is and makes its gradient infinite."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * math.inf


def _infinite(value: Tensor) -> Tensor:
    return value * math.inf


def _spiked(value: Tensor) -> Tensor:
    spiked: Tensor = _Spike.apply(value)
    return spiked


def _run(folder: Path, *, bad: set[int], limit: int, spoil: Any = _infinite, **options: Any) -> Run:
    """Spoils the steps ``bad``, counted from 1, and the batch statistics with them."""
    options.setdefault("plan", PLAN)
    options["plan"] = replace(options["plan"], skip_bad_steps=limit)
    run = Run(folder, **options)
    original = type(run.trainer.objective).__call__

    class Spoilt(type(run.trainer.objective)):  # type: ignore[misc]
        def __call__(self, step: Any) -> list[Term]:
            terms = original(self, step)
            if run.trainer._step + 1 not in bad:
                return terms
            if spoil is _infinite:
                run.student.get_buffer("norm.running_mean").data.fill_(math.nan)
            return [terms[0]._replace(value=spoil(terms[0].value)), *terms[1:]]

    run.trainer.objective.__class__ = Spoilt
    return run


@pytest.mark.parametrize("spoil", [_infinite, _spiked])
def test_bad_steps_are_undone_named_and_counted(
    spoil: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path, bad={3, 7}, limit=2, spoil=spoil)
    kept: dict[int, dict[str, Tensor]] = {}
    update = run.trainer._updater.update

    def watched(*args: Any) -> dict[str, Tensor]:
        kept[run.trainer._step] = run.weights
        return update(*args)

    monkeypatch.setattr(run.trainer._updater, "update", watched)
    result = run()
    assert (result.steps, result.skipped) == (STEPS, 2)
    cause = "gradient" if spoil is _spiked else "loss term 'ce'"
    assert [(event["step"], event["cause"]) for event in run.of("skipped")] == [(3, cause), (7, cause)]
    assert equal(kept[2], kept[3])
    assert not equal(kept[3], kept[4])
    assert all(value.isfinite().all() for value in run.weights.values())
    assert len(run.losses) == STEPS
    assert run.losses[2] == {}


def test_one_more_than_the_limit_ends_the_run(tmp_path: Path) -> None:
    run = _run(tmp_path, bad={3, 5, 7}, limit=2)
    with pytest.raises(UserError, match=r"'ce' is not finite at step 7, epoch 2, batch 2") as caught:
        run()
    assert "--skip-bad-steps" in str(caught.value.hint)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, precision="bf16")], ids=["float32", "bf16"])
@pytest.mark.parametrize(
    ("objective", "arguments"), [("rrm", {}), ("free-at", {"replays": 2})], ids=["rrm", "free-at"]
)
def test_a_resumed_run_counts_on(
    plan: TrainingPlan, objective: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "bad": {3, 7},
        "limit": 2,
        "plan": plan,
        "objective": objective,
        "arguments": arguments,
    }
    whole = _run(tmp_path / "whole", **options)
    whole()
    with pytest.raises(Interrupted):
        _run(tmp_path / "parts", **options, stop_after=5)()
    resumed = _run(tmp_path / "parts", **options)
    assert resumed(resume=True).skipped == 2
    assert equal(whole.weights, resumed.weights)


def test_what_is_not_needed_changes_nothing(tmp_path: Path) -> None:
    plain, careful = (_run(tmp_path / str(limit), bad=set(), limit=limit) for limit in (0, 5))
    plain()
    assert careful().skipped == 0
    assert equal(plain.weights, careful.weights)
