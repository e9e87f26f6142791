"""Who may write into a run folder, and what is found there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.evaluation.metrics import Metrics
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runtime.machine import environment

PARTIAL = ".rrm-transfer-0123456789abcdef.partial"
RECIPE = "name: a\noutput: here\ntrain:\n  epochs: 3\n"


WRITTEN = (
    "README.md", "report.html", "gallery.safetensors", "log.jsonl", "student/config.json",
    "student/model.safetensors", "student-best/rrm_student.safetensors", "control/config.json",
    "checkpoints/student-00000003/state.json", "checkpoints/control-final/state.safetensors",
    "robust-set/robust-set.json", "robust-set/train-00000-of-00001.parquet",
    "tracking/rrm-transfer/events.out.tfevents.1.host.2", "tracking/rrm-transfer/hparams.yml",
)  # fmt: skip


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
    _started(tmp_path).recipe.unlink()
    (tmp_path / f"{PARTIAL}.yaml").touch()
    folder = RunFolder(tmp_path)
    folder.check(overwrite=False, resume=True)
    with folder.locked():
        folder.open(RECIPE, {"processes": 1}, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment.json", "recipe.yaml"]


def test_a_new_run_replaces_everything(tmp_path: Path) -> None:
    folder = _finished(tmp_path / "run")
    for name in WRITTEN:
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Metrics([], conditions={"rrm-transfer": "0.1.0"}).write(folder.evaluations / "pgd.json")
    _started(folder.path)
    assert sorted(path.name for path in folder.path.iterdir()) == ["environment.json", "recipe.yaml"]


OTHERS = (
    ".git/HEAD", ".env", "notes.txt", "student/notes.txt", "checkpoints/student-2024/state.json",
    "checkpoints/.student-00000004.x1y2/state.json", "evaluations/mine.json", "robust-set/train.parquet",
    "tracking/mine.txt", ".lock", ".README.md.x1y2z3.md",
)  # fmt: skip
"""What looks like a run's and is a user's."""


def _with_others(folder: RunFolder) -> dict[Path, bytes]:
    for name in OTHERS:
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    return {folder.path / name: b"{}" for name in OTHERS}


@pytest.mark.parametrize("resume", [False, True])
def test_what_no_run_wrote_is_left_and_named(resume: bool, tmp_path: Path) -> None:
    folder = _finished(tmp_path / "run")
    others = _with_others(folder)
    folder.check(overwrite=not resume, resume=resume)
    with folder.locked():
        left = folder.open(RECIPE, {"processes": 1}, resume=resume)
    assert {path: path.read_bytes() for path in others} == others
    named = {(folder.path / name.partition("/")[0]) for name in OTHERS}
    assert set(left) == (set() if resume else named)
    assert folder.is_finished == resume


@pytest.mark.parametrize(
    "name", [".git/HEAD", ".env", ".lock", ".environment.json.x1y2z3.json", "recipe.yaml"]
)
def test_a_folder_of_a_users_is_refused_and_no_leave_to_destroy_it_is_asked_for(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("name: mine\n", encoding="utf-8")
    for content in (None, "", "[]", "{}", '{"versions": {"torch": "2"}}', "\udcff"):
        if content is not None:
            (tmp_path / "environment.json").write_text(content, encoding="utf-8", errors="surrogateescape")
        for overwrite in (False, True):
            with pytest.raises(UserError, match="holds no run") as caught:
                RunFolder(tmp_path).check(overwrite=overwrite, resume=False)
            assert "--overwrite" not in str(caught.value)


@pytest.mark.parametrize("name", ["README.md", "log.jsonl", "student/config.json", ".rrm-transfer.lock"])
def test_what_a_run_could_never_write_is_told_before_it_begins(name: str, tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    (folder.path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder.path / name)
    with pytest.raises(UserError, match="this is a pipe"):
        folder.check(overwrite=False, resume=True)
    (folder.path / name).unlink()
    (folder.path / name).mkdir()
    with pytest.raises(UserError, match="this is a folder"):
        folder.check(overwrite=False, resume=True)


def test_a_file_in_the_place_of_a_folder_is_told_before_a_run_begins(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    folder.student.touch()
    with pytest.raises(UserError, match="a run has a folder"):
        folder.check(overwrite=True, resume=False)


def test_a_link_that_leads_nowhere_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("nowhere")
    with pytest.raises(UserError, match="not a folder"):
        RunFolder(tmp_path / "run").check(overwrite=False, resume=False)


def test_a_resumed_run_keeps_all_but_what_was_half_written(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    folder.log("step", {"step": 1})
    with folder.log_file.open("a") as log:
        log.write('{"event": "st')
    for path in (
        folder.checkpoints / "student-00000003", folder.checkpoints / PARTIAL, folder.control / PARTIAL,
    ):  # fmt: skip
        path.mkdir(parents=True)
        (path / "state.json").touch()
    (folder.path / f"{PARTIAL}.md").touch()
    with folder.locked():
        folder.open(RECIPE, {"processes": 1}, resume=True)
        assert folder._lock.exists()
    folder.log("step", {"step": 2})
    assert [json.loads(line)["step"] for line in folder.log_file.read_text().splitlines()] == [1, 2]
    assert [path.name for path in folder.checkpoints.iterdir()] == ["student-00000003"]
    assert not list(folder.path.rglob(".*"))


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
