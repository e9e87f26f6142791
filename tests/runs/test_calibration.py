"""Precision and memory format are measured where the recipe leaves them open, once for a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import Interrupted
from rrm_transfer.runs import calibration
from rrm_transfer.runs.setup import assemble
from rrm_transfer.runs.calibration import Numerics, adopt, calibrate, describe
from rrm_transfer.runs.run import run
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.training.updating import Updater
from rrm_transfer.recipe.loading import build_recipe, read_recipe
from rrm_transfer.recipe.schema import Recipe
from tests.support import tiny
from tests.training.small import equal

PLAIN, ROUGH = Numerics("float32", False), Numerics("bf16", False)
FAST = Numerics("bf16", True)


def _recipe(teacher: Path, data: Path, *overrides: str) -> Recipe:
    content = {
        "teacher": {"name": str(teacher), "check": False},
        "student": {"name": "test_resnet"},
        "data": {"name": str(data)},
        "control": {"enabled": False},
    }
    unset = ["train.precision=null", "train.channels_last=null"]
    return build_recipe(content, [*tiny.settings(epochs=1), *unset, *overrides])


def _fake(monkeypatch: pytest.MonkeyPatch, seconds: dict[Numerics, float]) -> None:
    monkeypatch.setattr(calibration, "_measure", lambda *_: (seconds, 16))


def test_what_is_open_is_measured_on_a_copy(tiny_teacher: Path, tiny_data: Path) -> None:
    runtime = Runtime()
    assembly = assemble(_recipe(tiny_teacher, tiny_data), runtime, Narrator())
    student = assembly.student()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    seconds, images = calibration._measure(assembly, student, runtime, [PLAIN, FAST])
    assert equal(before, dict(student.state_dict()))
    assert set(seconds) == {PLAIN, FAST}
    assert 8 <= images <= 16
    assert all(value > 0 for value in seconds.values())


@pytest.mark.parametrize(("cache", "known"), [("null", False), ("{views: 1}", True)])
def test_a_teacher_that_is_cached_is_not_measured(
    cache: str, known: bool, tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(Updater, "update", lambda *arguments: given.append(arguments[4]))
    runtime = Runtime()
    assembly = assemble(_recipe(tiny_teacher, tiny_data, f"teacher.cache={cache}"), runtime, Narrator())
    step = calibration._stepping(assembly, assembly.student(), runtime, PLAIN)
    step(calibration._batch(assembly, runtime, 8))
    assert [clean is not None for clean in given] == [known]


def test_what_the_recipe_says_is_not_measured(
    tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime()
    recipe = _recipe(tiny_teacher, tiny_data, "train.precision=bf16", "train.channels_last=true")
    assembly = assemble(recipe, runtime, Narrator())
    monkeypatch.setattr(calibration, "_measure", None)
    calibrate(assembly, assembly.student(), runtime, Narrator())
    assert (assembly.recipe.train.precision, assembly.recipe.train.channels_last) == ("bf16", True)


@pytest.mark.parametrize(
    ("rough", "chosen"), [(0.5, "bf16"), (0.95, "float32"), (3.0, "float32")], ids=["fast", "hardly", "slow"]
)
def test_rounding_must_be_worth_it(
    rough: float, chosen: str, tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(monkeypatch, {PLAIN: 1.0, ROUGH: rough})
    runtime = Runtime()
    assembly = assemble(_recipe(tiny_teacher, tiny_data), runtime, Narrator())
    calibrate(assembly, assembly.student(), runtime, Narrator())
    assert assembly.recipe.train.precision == chosen
    assert assembly.recipe.train.channels_last is False


def test_the_outcome_is_one_line() -> None:
    line = describe(FAST, {FAST: 0.01, Numerics("float32", True): 0.017, ROUGH: 0.012}, 64)
    assert line == (
        "measured: bf16 1.7x faster than float32, channels_last 1.2x faster than contiguous; "
        "10 ms for a step of 64 images"
    )
    assert "float32 1.05x slower than bf16" in describe(PLAIN, {PLAIN: 1.05, ROUGH: 1.0}, 64)


def test_a_resumed_run_takes_the_recorded_choice(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise Interrupted("enough")

    recipe = _recipe(tiny_teacher, tiny_data, f"output={tmp_path / 'run'}")
    _fake(monkeypatch, {PLAIN: 1.0, FAST: 0.5})
    with pytest.raises(Interrupted, match="enough"):
        run(recipe, publish=interrupted)
    recorded = read_recipe(str(tmp_path / "run" / "recipe.yaml")).train
    assert (recorded.precision, recorded.channels_last) == ("bf16", True)
    _fake(monkeypatch, {PLAIN: 0.1, FAST: 0.5})
    result = run(recipe, publish=lambda _: None, resume=True)
    assert (result.recipe.train.precision, result.recipe.train.channels_last) == ("bf16", True)


def test_a_given_value_is_not_replaced_by_the_recorded_one() -> None:
    given, recorded = (build_recipe({"student": {"name": "a"}}) for _ in range(2))
    given.train.precision, recorded.train.precision = "float32", "bf16"
    recorded.train.channels_last = True
    adopt(given, recorded)
    assert (given.train.precision, given.train.channels_last) == ("float32", True)


def test_candidates_of_a_device_without_bf16() -> None:
    assert calibration._candidates(None, None, torch.device("mps")) == [PLAIN, Numerics("float32", True)]
    assert len(calibration._candidates(None, None, torch.device("cpu"))) == 4
