from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import NAMED_STATISTICS, Normalise
from rrm_transfer.evaluation.state import EvaluationState, Found, weights_hash

CONDITIONS = {"weights": "ab", "eps": [8 / 255, 0.1], "seed": 0, "surrogate": None}


def test_what_was_found_comes_back_under_the_same_conditions(tmp_path: Path) -> None:
    state = EvaluationState(tmp_path / "deep" / "x.state.json", CONDITIONS)
    state.add({"a": Found("0110", 1.5)})
    state.add({"b": Found("1", 0.1 + 0.2)})
    again = EvaluationState(state.path, dict(CONDITIONS))
    again.load()
    assert again.found == state.found == {"a": Found("0110", 1.5), "b": Found("1", 0.1 + 0.2)}
    assert again.found["a"].lost == 2
    again.remove()
    assert not list((tmp_path / "deep").iterdir())
    again.remove()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "cd"}, "weights: ab then, cd now"),
        ({"eps": [8 / 255]}, r"eps: \[0.03\d+, 0.1\] then, \[0.03\d+\] now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"steps": 5}, "steps: None then, 5 now"),
    ],
)
def test_other_conditions_are_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    state = EvaluationState(tmp_path / "x.state.json", CONDITIONS)
    state.add({"a": Found("0", 1.0)})
    with pytest.raises(UserError, match=message) as caught:
        EvaluationState(state.path, CONDITIONS | change).load()
    assert str(state.path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "conditions": {}}'])
def test_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.state.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="Not the state of an evaluation"):
        EvaluationState(path).load()


def test_a_new_evaluation_does_not_throw_results_away(tmp_path: Path) -> None:
    state = EvaluationState(tmp_path / "x.state.json")
    state.check_absent()
    state.load()
    state.add({"a": Found("0", 1.0)})
    assert json.loads((tmp_path / "x.state.json").read_text(encoding="utf-8"))["schema"] == 1
    with pytest.raises(UserError, match="--resume"):
        state.check_absent()


def test_the_hash_sees_weights_buffers_and_normalisation() -> None:
    def net(change: float = 0.0, statistics: str = "none") -> nn.Module:
        torch.manual_seed(0)
        convolution, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        convolution.weight.data[0, 0, 0, 0] += change
        return nn.Sequential(Normalise(NAMED_STATISTICS[statistics]), convolution, norm)

    assert weights_hash(net()) == weights_hash(net())
    assert weights_hash(net()) != weights_hash(net(change=1e-6))
    assert weights_hash(net()) != weights_hash(net(statistics="cifar10"))
    other = net()
    dict(other.named_buffers())["2.running_mean"] += 1e-6
    assert weights_hash(net()) != weights_hash(other)
    assert weights_hash(net().bfloat16()) != weights_hash(net())
