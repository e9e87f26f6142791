"""Who may write into a run folder, and what is found there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runtime.machine import environment

RECIPE = "name: a\noutput: here\ntrain:\n  epochs: 3\n"


def _started(path: Path, *, processes: int = 1) -> RunFolder:
    folder = RunFolder(path)
    with folder.locked():
        folder.open(RECIPE, {"processes": processes}, resume=False)
    return folder


def _finished(path: Path) -> RunFolder:
    folder = _started(path)
    folder.metrics.write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("overwrite", "resume", "message"),
    [
        (False, False, "unfinished run"),
        (True, False, None),
        (False, True, None),
    ],
)
def test_an_unfinished_run(tmp_path: Path, overwrite: bool, resume: bool, message: str | None) -> None:
    folder = _started(tmp_path / "run")
    _expect(folder, overwrite=overwrite, resume=resume, message=message)


@pytest.mark.parametrize(
    ("overwrite", "resume", "message"),
    [
        (False, False, "finished run"),
        (False, True, None),
        (True, False, None),
        (True, True, None),
    ],
)
def test_a_finished_run(tmp_path: Path, overwrite: bool, resume: bool, message: str | None) -> None:
    folder = _finished(tmp_path / "run")
    _expect(folder, overwrite=overwrite, resume=resume, message=message)


def _expect(folder: RunFolder, *, overwrite: bool, resume: bool, message: str | None) -> None:
    if message is None:
        folder.check(overwrite=overwrite, resume=resume)
    else:
        with pytest.raises(UserError, match=message):
            folder.check(overwrite=overwrite, resume=resume)


def test_a_folder_with_other_things_is_refused_whatever_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds no run"):
            RunFolder(tmp_path).check(overwrite=overwrite, resume=True)
    with pytest.raises(UserError, match="a file, not a folder"):
        RunFolder(tmp_path / "thesis.tex").check(overwrite=True, resume=True)


def test_a_run_killed_while_it_began_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / "environment.json").touch()
    (tmp_path / ".recipe.yaml.x1y2.yaml").touch()
    folder = RunFolder(tmp_path)
    folder.check(overwrite=False, resume=True)
    with folder.locked():
        folder.open(RECIPE, {"processes": 1}, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment.json", "recipe.yaml"]


def test_a_new_run_replaces_everything(tmp_path: Path) -> None:
    folder = _finished(tmp_path / "run")
    folder.checkpoints.mkdir()
    (folder.checkpoints / "student-final").mkdir()
    _started(folder.path)
    assert sorted(path.name for path in folder.path.iterdir()) == ["environment.json", "recipe.yaml"]


def test_a_resumed_run_keeps_all_but_what_was_half_written(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    folder.log("step", {"step": 1})
    with folder.log_file.open("a") as log:
        log.write('{"event": "st')
    for path in (folder.checkpoints / "student-00000003", folder.checkpoints / ".student-00000004.x1y2"):
        path.mkdir(parents=True)
        (path / "state.json").touch()
    (folder.path / ".README.md.x1y2.md").touch()
    with folder.locked():
        folder.open(RECIPE, {"processes": 1}, resume=True)
        assert folder._lock.exists()
    folder.log("step", {"step": 2})
    assert [json.loads(line)["step"] for line in folder.log_file.read_text().splitlines()] == [1, 2]
    assert [path.name for path in folder.checkpoints.iterdir()] == ["student-00000003"]
    assert not list(folder.path.glob(".*"))


def test_the_same_run_may_go_on_wherever_its_folder_is_now(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    folder.check_same(RECIPE.replace("here", "there"), {"processes": 1})


def test_another_recipe_or_world_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run", processes=2)
    with pytest.raises(UserError) as caught:
        folder.check_same(RECIPE.replace("3", "4"), {"processes": 1})
    assert "\n  train.epochs: was 3, is now 4\n  processes: was 2, is now 1\n" in str(caught.value)


def test_what_changed_is_written_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run", processes=2)
    with pytest.raises(UserError, match="--resume-anyway"):
        folder.check_same(RECIPE, {"processes": 1})
    changes = folder.check_same(RECIPE, {"processes": 1}, anyway=True)
    with folder.locked():
        folder.open(RECIPE, {"processes": 1}, resume=True, changes=changes)
    assert folder.check_same(RECIPE, {"processes": 1}) == []
    (event,) = [json.loads(line) for line in folder.log_file.read_text().splitlines()]
    assert (event["event"], event["changes"]) == ("changed", {"processes": [2, 1]})


def test_the_lock_is_refused_with_its_holder_named_and_leaves_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        with (
            pytest.raises(UserError, match=f"held by process {os.getpid()} on"),
            RunFolder(folder.path).locked(),
        ):
            pass
        assert folder._lock.exists()
    with folder.locked():
        pass
    assert list(folder.path.iterdir()) == []


def test_events_are_found_by_name(tmp_path: Path) -> None:
    folder = _started(tmp_path)
    for number in range(3):
        folder.log("odd" if number % 2 else "even", {"number": number})
    assert [event["number"] for event in folder.events("even")] == [0, 2]


def test_the_environment_names_no_machine() -> None:
    facts = environment({"processes": 2})
    assert facts["processes"] == 2
    assert os.uname().nodename not in json.dumps(facts).split('"')


def test_what_a_run_depends_on_is_not_guessed(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    folder.environment.unlink()
    with pytest.raises(UserError, match="processes: was unknown"):
        folder.check_same(RECIPE, {"processes": 2})
