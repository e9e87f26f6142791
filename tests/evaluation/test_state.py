from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.evaluation.state import EvaluationState, Found

CONDITIONS = {"weights": "ab", "eps": [8 / 255, 0.1], "seed": 0, "surrogate": None}


def test_what_was_found_comes_back_under_the_same_conditions(tmp_path: Path) -> None:
    state = EvaluationState(tmp_path / "deep" / "x.state.json", CONDITIONS)
    state.add({"a": Found("0110", 1.5, [0.25, None, None, 0.125])})
    state.add({"b": Found("1", 0.1 + 0.2)})
    again = EvaluationState(state.path, dict(CONDITIONS))
    again.load()
    assert again.found == state.found == {
        "a": Found("0110", 1.5, [0.25, None, None, 0.125]), "b": Found("1", 0.1 + 0.2)
    }  # fmt: skip
    assert again.found["a"].lost == 2
    again.remove()
    assert not list((tmp_path / "deep").iterdir())
    again.remove()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "cd"}, "weights: was ab, is now cd"),
        ({"eps": [8 / 255]}, r"eps: was \[0.03\d+, 0.1\], is now \[0.03\d+\]"),
        ({"seed": 1}, "seed: was 0, is now 1"),
        ({"steps": 5}, "steps: was None, is now 5"),
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
