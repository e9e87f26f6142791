"""What a tracker is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.utils import LoggerType

from rrm_transfer.core.errors import UserError
from rrm_transfer.runs.tracking import TRACKERS, check_tracker
from tests.support import tiny
from tests.support.command import command


def test_tensorboard_is_told_losses_rates_and_accuracies(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = tiny.recipe_options(tiny_teacher, tiny_data, epochs=1)
    settings = ["--skip-teacher-check", "--json", "--quiet", "--tracker", "tensorboard"]
    ended = command("run", *options, *settings, "--output", "run", folder=tmp_path)
    assert ended.code == 0, ended.err
    events = accumulators.EventAccumulator(str(tmp_path / "run/tracking/rrm-transfer")).Reload()
    found = {
        tag: [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert [step for step, _ in found["control/loss/ce"]] == [2, 4]
    assert {"student/lr", "student/images_per_s", "control/lr", "student/loss/ce"} <= set(found)
    rows = {row["model"]: row["accuracy"] for row in ended.document["rows"] if row["attack"] == "none"}
    ((_, accuracy),) = found["accuracy/student/clean"]
    assert accuracy == pytest.approx(rows["student"])
    assert "accuracy/student/Linf 8 of 255 pgd-2" in found


def test_the_trackers_are_those_of_accelerate() -> None:
    assert set(TRACKERS) == {name.value for name in LoggerType} - {"all"}


def test_an_unknown_or_missing_tracker_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tracker(None)
    with pytest.raises(UserError, match="did you mean tensorboard"):
        check_tracker("tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_tracker("wandb")
