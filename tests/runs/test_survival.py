"""Runs that are stopped or killed end with the same student as those left alone."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from rrm_transfer.core.files import sha256_of
from rrm_transfer.evaluation.metrics import read_metrics
from tests.support import tiny
from tests.support.command import Command, Ended, Moment, command


class Survivor:
    """A run that is started over and over, beside one that was left alone."""

    def __init__(self, folder: Path, teacher: Path, data: Path, *, epochs: int = 3) -> None:
        self.folder = folder
        self.options = [
            *tiny.recipe_options(teacher, data, epochs=epochs),
            "--skip-teacher-check",
        ]
        ended = command("run", *self.options, "--output", "alone", "--quiet", folder=folder)
        assert ended.code == 0, ended.err
        self.alone = folder / "alone"

    def start(self, output: str, moment: Moment | None = None) -> Command:
        arguments = ["run", *self.options, "--output", output, "--resume"]
        return Command(arguments, folder=self.folder, moment=moment)

    def run(self, output: str, moment: Moment | None = None) -> Ended:
        return self.start(output, moment).end()

    def check(self, output: str) -> None:
        """Checks that a finished run is like the one left alone."""
        run = self.folder / output
        for file in ("student/model.safetensors", "checkpoints/student-final/state.safetensors"):
            assert sha256_of(run / file) == sha256_of(self.alone / file)
        assert read_metrics(run / "metrics.json").rows == read_metrics(self.alone / "metrics.json").rows
        assert not list(run.rglob(".*")), "temporary files were left"
        files = [
            {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
            for folder in (run, self.alone)
        ]
        assert files[0] == files[1]
        for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
            json.loads(line)


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_data: Path) -> Survivor:
    return Survivor(tmp_path_factory.mktemp("survivor"), tiny_teacher, tiny_data)


TRAINING = "rrm_transfer.training.updating:Updater.update"
SAVING = "rrm_transfer.training.checkpoints:save_file"
EVALUATION = "rrm_transfer.runs.run:_Work._rows"
EXPORT = "rrm_transfer.students.saving:save_for_hf"


@pytest.mark.parametrize(
    "moment",
    [
        Moment(TRAINING, 7, signal.SIGTERM),
        Moment(SAVING, 7, signal.SIGINT),
        Moment(EVALUATION, 2, signal.SIGTERM),
        Moment(TRAINING, 6, signal.SIGHUP),
    ],
    ids=["training", "saving", "evaluation", "closed terminal"],
)
def test_a_stopped_run_says_how_to_go_on_and_does(survivor: Survivor, moment: Moment) -> None:
    output = f"{moment.function[-6:]}-{moment.signal.name}"
    ended = survivor.run(output, moment)
    assert ended.code == 130, ended.err
    assert f"--output {output} --resume" in ended.err
    assert "Traceback" not in ended.err
    assert not list((survivor.folder / output).rglob(".*"))
    resumed = survivor.run(output)
    assert resumed.code == 0, resumed.err
    assert "resumed at step" in resumed.err
    survivor.check(output)


def test_a_run_killed_three_times_ends_the_same(survivor: Survivor) -> None:
    moments = [Moment(SAVING, 6), Moment(TRAINING, 3), Moment(EXPORT)]
    for moment in moments:
        assert survivor.run("killed", moment).code == -signal.SIGKILL
    hidden = {path.name for path in (survivor.folder / "killed").rglob(".*")}
    assert hidden - {".rrm-transfer.lock"}, "nothing was half-written"
    last = survivor.run("killed")
    assert last.code == 0, last.err
    survivor.check("killed")


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_the_same(survivor: Survivor) -> None:
    dice = random.Random(0)
    kills = dice.sample([TRAINING, SAVING, EVALUATION, EXPORT, ""] * 4, 20)
    runs = 0
    while kills:
        runs += 1
        output = f"killed-often-{runs}"
        while not (survivor.folder / output / "metrics.json").is_file():
            place = kills[-1] if kills else None
            ended = _killed_at(place, dice, survivor, output) if place is not None else survivor.run(output)
            assert ended.code in (0, -signal.SIGKILL), ended.err
            if ended.code:
                kills.pop()
        survivor.check(output)


def _killed_at(place: str, dice: random.Random, survivor: Survivor, output: str) -> Ended:
    """Has a run killed at the end of one of the first calls of ``place``; at any time where that is empty."""
    if place:
        calls = 1 if place in (EVALUATION, EXPORT) else dice.randint(1, 5)
        return survivor.run(output, Moment(place, calls))
    log = survivor.folder / output / "log.jsonl"
    before = log.stat().st_size if log.is_file() else 0
    running = survivor.start(output)
    # The time before a run has taken up its work is long and of little interest.
    running.wait_for(lambda: log.is_file() and log.stat().st_size > before)
    time.sleep(dice.uniform(0, 0.5))
    if running.running:
        running.signal(signal.SIGKILL)
    return running.end()


def test_a_second_run_on_the_same_folder_is_refused(survivor: Survivor) -> None:
    first = survivor.start("shared", Moment(TRAINING, 1, signal.SIGSTOP))
    lock = survivor.folder / "shared" / ".rrm-transfer.lock"
    first.wait_for(lambda: lock.is_file() and lock.read_text(encoding="utf-8"))
    try:
        second = survivor.run("shared")
        assert second.code == 2
        assert f"held by process {first.pid} on" in second.err
    finally:
        first.signal(signal.SIGCONT)
    assert first.end().code == 0
    survivor.check("shared")


def test_an_unfinished_run_is_refused_without_resume_and_with_another_recipe(survivor: Survivor) -> None:
    survivor.run("unfinished", Moment(TRAINING, 1))
    arguments = ["run", *survivor.options, "--output", "unfinished"]
    refused = command(*arguments, folder=survivor.folder)
    assert (refused.code, "--resume to continue it" in refused.err) == (2, True)
    changed = command(*arguments, "--resume", "--set", "train.lr=0.3", folder=survivor.folder)
    assert changed.code == 2
    assert "\n  train.lr: was 0.02, is now 0.3\n" in changed.err
    replaced = command(*arguments, "--overwrite", "--quiet", folder=survivor.folder)
    assert replaced.code == 0, replaced.err
    survivor.check("unfinished")


def test_a_seed_makes_two_runs_identical(survivor: Survivor) -> None:
    ended = survivor.run("again")
    assert ended.code == 0, ended.err
    survivor.check("again")
    other = command(
        "run", *survivor.options, "--output", "other", "--seed", "1", "--quiet", folder=survivor.folder
    )
    assert other.code == 0, other.err
    weights = [sha256_of(survivor.folder / name / "student/model.safetensors") for name in ("again", "other")]
    assert weights[0] != weights[1]


def test_resume_of_a_finished_run_gives_its_result(survivor: Survivor) -> None:
    """So that a scheduler can always pass it."""
    before = sorted((path, path.stat().st_mtime_ns) for path in survivor.alone.rglob("*"))
    arguments = ["run", *survivor.options, "--output", "alone", "--resume"]
    again = command(*arguments, "--json", folder=survivor.folder)
    assert again.code == 0, again.err
    assert "finished already: alone" in again.err
    assert again.document["rows"] == [
        asdict(row) for row in read_metrics(survivor.alone / "metrics.json").rows
    ]
    other = command(*arguments, "--resume-anyway", "--set", "evaluate.steps=3", folder=survivor.folder)
    assert (other.code, "evaluate.steps: was 2, is now 3" in other.err) == (2, True)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in survivor.alone.rglob("*"))


def test_a_run_goes_on_with_what_may_change_when_told_to(survivor: Survivor) -> None:
    survivor.run("changed", Moment(TRAINING, 6))
    lower = ["run", *survivor.options, "--output", "changed", "--set", "train.lr=0.01"]
    refused = command(*lower, "--resume", folder=survivor.folder)
    assert (refused.code, "--resume-anyway" in refused.err) == (2, True)
    another = command(*lower, "--resume-anyway", "--set", "train.epochs=4", folder=survivor.folder)
    assert another.code == 2
    assert "train.epochs: was 3, is now 4" in another.err
    assert "train.lr" not in another.err
    ended = command(*lower, "--resume-anyway", "--no-control", folder=survivor.folder)
    assert ended.code == 2, "the control belongs to the run"
    ended = command(*lower, "--resume-anyway", folder=survivor.folder)
    assert ended.code == 0, ended.err
    assert "resumed anyway" in ended.err
    events = [json.loads(line) for line in (survivor.folder / "changed/log.jsonl").read_text().splitlines()]
    assert [e["changes"] for e in events if e["event"] == "changed"] == [{"train.lr": [0.02, 0.01]}]
    rates = [e["lr"] for e in events if e["event"] == "step" and e["model"] == "student"]
    assert max(rates) <= 0.01
