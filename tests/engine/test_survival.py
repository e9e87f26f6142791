"""Runs that are stopped or killed end with the same student as those left alone."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from rrm_transfer.core.files import sha256_of
from rrm_transfer.engine.metrics import read_metrics
from tests import tiny
from tests.command import Command, Ended, Moment, command


class Survivor:
    """A run that is started over and over, beside one that was left alone."""

    def __init__(self, folder: Path, teacher: Path, data: Path, *, epochs: int = 3) -> None:
        self.folder = folder
        self.options = [
            *tiny.recipe_options(teacher, data, epochs=epochs),
            *("--set", "train.checkpoint_every=1"),
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


TRAINING = "rrm_transfer.engine.updating:Updater.update"
SAVING = "rrm_transfer.engine.checkpoints:save_file"
EVALUATION = "rrm_transfer.engine.job:_Job._measure"
EXPORT = "rrm_transfer.students.saving:save_for_hf"


@pytest.mark.parametrize(
    "moment",
    [
        Moment(TRAINING, 7, signal.SIGTERM),
        Moment(SAVING, 7, signal.SIGINT),
        Moment(EVALUATION, 2, signal.SIGTERM),
    ],
    ids=["training", "saving", "evaluation"],
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
    assert list((survivor.folder / "killed").glob(".student.*")), "nothing was half-written"
    last = survivor.run("killed")
    assert last.code == 0, last.err
    survivor.check("killed")


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_the_same(survivor: Survivor) -> None:
    dice = random.Random(0)
    kills, runs = 0, 0
    while kills < 20:
        runs += 1
        output = f"killed-often-{runs}"
        run = survivor.folder / output
        while not (run / "metrics.json").is_file():
            log = run / "log.jsonl"
            before = log.stat().st_size if log.is_file() else 0
            running = survivor.start(output)
            # The time before a run has taken up its work is long and of little interest.
            running.wait_for(lambda log=log, before=before: log.is_file() and log.stat().st_size > before)
            time.sleep(dice.uniform(0, 0.5))
            if running.running and kills < 20:
                running.signal(signal.SIGKILL)
            ended = running.end()
            assert ended.code in (0, -signal.SIGKILL), ended.err
            kills += ended.code != 0
        survivor.check(output)
    assert kills == 20


def test_a_second_run_on_the_same_folder_is_refused(survivor: Survivor) -> None:
    first = survivor.start("shared", Moment(TRAINING, 1, signal.SIGSTOP))
    lock = survivor.folder / "shared" / ".lock"
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
    assert "-  lr: 0.02\n+  lr: 0.3" in changed.err
    replaced = command(*arguments, "--overwrite", "--quiet", folder=survivor.folder)
    assert replaced.code == 0, replaced.err
    survivor.check("unfinished")
