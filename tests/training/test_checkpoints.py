"""Damaged checkpoints are found, named and stepped over."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rrm_transfer.core.errors import Interrupted
from rrm_transfer.training import checkpoints as module
from rrm_transfer.training import timing
from rrm_transfer.training.checkpoints import Checkpoint, Checkpoints
from tests.training.small import PLAN, Run, equal


def _state(step: int) -> Checkpoint:
    return Checkpoint(step, {"a": torch.full((3,), float(step)), "b": torch.ones(2).bool()}, {"lr": step / 7})


def _truncate(folder: Path) -> None:
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _flip_weights(folder: Path) -> None:
    file = folder / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def _flip_facts(folder: Path) -> None:
    file = folder / "state.json"
    content = json.loads(file.read_text())
    content["step"] += 1
    file.write_text(json.dumps(content))


def _truncate_facts(folder: Path) -> None:
    (folder / "state.json").write_text((folder / "state.json").read_text()[:10])


def _other_facts(folder: Path) -> None:
    (folder / "state.json").write_text("[]")


def _lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGE = {
    "truncated weights": _truncate,
    "flipped weights": _flip_weights,
    "flipped facts": _flip_facts,
    "truncated facts": _truncate_facts,
    "other facts": _other_facts,
    "no weights": _lose("state.safetensors"),
    "no facts": _lose("state.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    kept = Checkpoints(tmp_path, "student", warnings.append)
    for step in (1, 2):
        kept.save(_state(step))
    DAMAGE[damage](tmp_path / "student-00000002")
    found, finished = kept.newest()
    assert found is not None
    assert (found.step, found.facts, finished) == (1, {"lr": 1 / 7}, False)
    assert torch.equal(found.tensors["a"], torch.ones(3))
    assert len(warnings) == 1
    assert "student-00000002 is damaged" in warnings[0]


def test_nothing_is_found_where_all_are_damaged_or_none_is_there(tmp_path: Path) -> None:
    warnings: list[str] = []
    kept = Checkpoints(tmp_path / "checkpoints", "student", warnings.append)
    assert kept.newest() == (None, False)
    _truncate(kept.save(_state(1)))
    assert kept.newest() == (None, False)
    assert len(warnings) == 1


def test_folders_that_a_killed_run_was_writing_do_not_count(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, "student", pytest.fail)
    kept.save(_state(1)).rename(tmp_path / ".student-00000009.x1y2")
    assert kept.newest() == (None, False)


def test_shared_tensors_are_saved(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, "student", pytest.fail)
    shared = torch.arange(6.0).view(2, 3)
    kept.save(Checkpoint(1, {"a": shared, "b": shared, "c": shared.T}, {}))
    found, _ = kept.newest()
    assert found is not None
    assert torch.equal(found.tensors["c"], shared.T)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_weights(damage: str, tmp_path: Path) -> None:
    plan = replace(PLAN, checkpoint_minutes=0)
    whole = Run(tmp_path / "whole", plan=plan)
    whole()
    stopped = Run(tmp_path / "parts", plan=plan, stop_after=7)
    with pytest.raises(Interrupted):
        stopped()
    DAMAGE[damage](tmp_path / "parts" / "student-00000007")
    resumed = Run(tmp_path / "parts", plan=plan)
    resumed(resume=True)
    assert resumed.of("resume")[0]["step"] == 6
    assert "student-00000007 is damaged" in resumed.warnings[0]
    assert equal(resumed.weights, whole.weights)


def test_a_damaged_final_checkpoint_is_made_again(tmp_path: Path) -> None:
    plan = replace(PLAN, checkpoint_minutes=0)
    whole = Run(tmp_path, plan=plan)
    whole()
    _truncate(tmp_path / "student-final")
    again = Run(tmp_path, plan=plan)
    again(resume=True)
    assert [entry["step"] for entry in again.of("step")] == [10]
    assert equal(again.weights, whole.weights)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path, "student", pytest.fail)
    kept.save(_state(1))

    def full(tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"part")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        kept.save(_state(2))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["student-00000001"]
    found, _ = kept.newest()
    assert found is not None
    assert found.step == 1


def test_safetensors_reports_the_operating_system_as_expected(tmp_path: Path) -> None:
    """The form of message that a full disk is told from."""
    with pytest.raises(SafetensorError, match=r"\(os error \d+\)"):
        safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "missing" / "file")


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, at_last, begun = Run(tmp_path, plan=replace(PLAN, log_every=1)), threading.Event(), []
    write = safetensors.torch.save_file

    def slow(tensors: dict[str, torch.Tensor], path: Path) -> None:
        begun.append(tensors)
        assert at_last.wait(30)
        write(tensors, path)

    def after_step() -> None:
        match run.trainer._step:
            case 2:
                run.trainer._checkpoint._due = 0.0  # ten minutes are over
            case 9:
                assert [entry["step"] for entry in run.of("checkpoint")] == []
                at_last.set()

    monkeypatch.setattr(module, "save_file", slow)
    run.after_step = after_step
    run()
    assert [entry["step"] for entry in run.of("checkpoint")] == [2, 10]
    kept = load_file(tmp_path / "student-00000002" / "state.safetensors")
    weight = "student/convolution.weight"
    assert not torch.equal(kept[weight], run.weights["convolution.weight"]), "the state of step 2 was kept"


def test_checkpoints_are_written_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of three minutes: after the fourth and the eighth, ten minutes are over, and at the end."""
    run, now = Run(tmp_path, plan=replace(PLAN, log_every=1)), [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def after_step() -> None:
        now[0] += 180

    run.after_step = after_step
    run()
    assert [entry["step"] for entry in run.of("checkpoint")] == [4, 8, 10]


def test_what_keeps_a_checkpoint_from_being_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    run = Run(tmp_path, plan=replace(PLAN, checkpoint_minutes=0))
    with pytest.raises(OSError, match="No space"):
        run()
    assert run.trainer._step <= 2
    assert run.of("checkpoint") == []
    assert list(tmp_path.iterdir()) == []
