"""What may go wrong around a run: it ends with one clear message, and what it had is kept."""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import json
import os
import select
import sys
import termios
import threading
import time
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rrm_transfer.runs import folder as run_folder
from rrm_transfer.training.checkpoints import Checkpoints
from rrm_transfer.training.updating import Updater
from tests.support import tiny
from tests.support.command import Ended, Moment, command

SAVING = "rrm_transfer.training.checkpoints:save_file"
EXPORT = "rrm_transfer.students.saving:save_for_hf"
UPDATE = "rrm_transfer.training.updating:Updater.update"
METRICS = "rrm_transfer.evaluation.metrics:Metrics.write"


@pytest.fixture
def options(tiny_teacher: Path, tiny_data: Path) -> list[str]:
    short = ["--no-control", "--skip-teacher-check", "--output", "run"]
    return ["run", *tiny.recipe_options(tiny_teacher, tiny_data), *short]


def _told(ended: Ended, text: str) -> bool:
    """Tells whether a command ended with one message, which holds ``text``."""
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("error: ") == 1
    return text in ended.err


@pytest.mark.parametrize(
    ("place", "number", "reason"),
    [
        (SAVING, errno.ENOSPC, "no space is left"),
        (EXPORT, errno.EROFS, "the file system is read-only"),
        (METRICS, errno.EDQUOT, "the disk quota is used up"),
    ],
    ids=["full while saving", "read-only in export", "quota at the end"],
)
def test_storage_that_refuses_ends_the_run_with_what_it_had(
    place: str, number: int, reason: str, options: list[str], tmp_path: Path
) -> None:
    error = OSError(number, os.strerror(number), "run/file")
    ended = command(*options, folder=tmp_path, moment=Moment(place, 2 if place == SAVING else 1, error=error))
    assert _told(ended, f"A file could not be written or read: {reason}")
    checkpoint, _ = Checkpoints(tmp_path / "run" / "checkpoints", "student", pytest.fail).newest()
    assert checkpoint is not None
    assert not list((tmp_path / "run").rglob(".*")), "nothing half-written stays"
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to the superuser")
def test_a_read_only_folder_is_told(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    assert _told(command(*options[:-1], "closed/run", folder=tmp_path), "permission denied")


def test_a_run_survives_a_clock_that_goes_back(options: list[str], tmp_path: Path) -> None:
    """Durations do not come from the clock, and the lock knows its holder without it."""
    ended = command(*options, folder=tmp_path, moment=_BackwardClock(""))
    assert ended.code == 0, ended.err
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    times = [event["time"] for event in events]
    assert times == sorted(times, reverse=True), "the clock did go back"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 < metrics["timing"]["student"]["train_seconds"] < 60
    assert all(seconds >= 0 for seconds in metrics["timing"].get("attacks", {}).values())


class _BackwardClock(Moment):
    def arrange(self) -> None:
        began = time.time()
        time.time = lambda: began - 1000 * time.monotonic()


def test_a_run_whose_terminal_closes_stops_at_a_checkpoint(options: list[str], tmp_path: Path) -> None:
    ended = command(*options, folder=tmp_path, moment=_ClosingTerminal(UPDATE, 4))
    assert ended.code == 130
    checkpoint, _ = Checkpoints(tmp_path / "run" / "checkpoints", "student", pytest.fail).newest()
    assert checkpoint is not None
    assert 4 <= checkpoint.step < 8, "not the end, at which a checkpoint is written anyway"


def _text(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), line_buffering=True)


class _ClosingTerminal(Moment):
    """Gives the command a terminal that is closed at the end of a call."""

    def arrange(self) -> None:
        os.setsid()
        mine, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        for stream in (1, 2):
            os.dup2(its, stream)
        sys.stdout, sys.stderr = (_text(number) for number in (1, 2))  # no files any more
        os.close(its)
        threading.Thread(target=_drain, args=(mine,), daemon=True).start()
        original, calls = Updater.update, itertools.count(1)

        def update(updater: Updater, *args: Any) -> dict[str, Tensor]:
            terms = original(updater, *args)
            if next(calls) == self.count:
                os.close(mine)  # the system sends SIGHUP
            return terms

        setattr(Updater, "update", update)  # noqa: B010


def _drain(terminal: int) -> None:
    with suppress(OSError):
        while True:
            if select.select([terminal], [], [], 0.01)[0]:
                os.read(terminal, 4096)


class _Frozen(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Frozen:
        return cls(2026, 1, 1, tzinfo=tz)


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", _Frozen)
    names = []
    for _ in range(3):
        path = run_folder.free_path("n-a/b")
        path.mkdir(parents=True)
        names.append(path.name)
    first = "n-a-b-20260101-000000"
    assert names == [first, f"{first}-2", f"{first}-3"]
