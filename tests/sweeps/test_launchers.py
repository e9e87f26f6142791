"""Tasks in processes of their own: how they end, and how they are stopped."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.sweeps.launchers import Ended, Launcher, Task, carry_out, launch_here, slurm_launcher

WELL = "print('made it')"
MISTAKE = "import sys; print('error: It is wrong.\\n  received: this', file=sys.stderr); sys.exit(2)"
BUG = "raise KeyError('bug')"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
STOPPED = "import sys; sys.exit(130)"


def task(folder: Path, name: str, program: str) -> Task:
    # Isolated, so that the interpreter starts fast.
    return Task(name, (sys.executable, "-I", "-S", "-c", program), folder / "logs" / f"{name}.log")


def launched(launcher: Launcher, tasks: list[Task]) -> dict[str, str | None]:
    return {ended.task.name: ended.error for ended in launcher(tasks, Narrator())}


def test_each_task_ends_in_its_own_way(tmp_path: Path) -> None:
    programs = {"mistake": MISTAKE, "bug": BUG, "killed": KILLED, "well": WELL}
    tasks = [task(tmp_path, name, program) for name, program in programs.items()]
    assert launched(launch_here, tasks) == {
        "mistake": "It is wrong.\n  received: this",
        "bug": "KeyError: 'bug'",
        "killed": "killed by SIGKILL",
        "well": None,
    }
    assert tasks[-1].log.read_text(encoding="utf-8") == "made it\n"
    assert "Traceback" in tasks[1].log.read_text(encoding="utf-8")


def test_a_task_that_was_asked_to_stop_stops_the_rest(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "well", WELL), task(tmp_path, "stopped", STOPPED), task(tmp_path, "next", WELL)]
    endings: list[Ended] = []
    with pytest.raises(Interrupted, match="stopped in stopped"):
        endings.extend(launch_here(tasks, Narrator()))
    assert not tasks[2].log.exists()


def test_a_signal_reaches_the_task_which_may_save_its_state(tmp_path: Path) -> None:
    program = f"""
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path({str(tmp_path / "saved")!r}).touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""

    def stop(line: str) -> None:
        assert line == "ready"
        signal.raise_signal(signal.SIGTERM)

    with StopRequest(), pytest.raises(Interrupted):
        carry_out(task(tmp_path, "long", program), stop)
    assert (tmp_path / "saved").exists()


def test_submitit_carries_out_the_same_tasks(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launcher = slurm_launcher(tmp_path / "submitit", {"timeout_min": 1}, cluster="local", poll_seconds=0.05)
    tasks = [task(tmp_path, "well", WELL), task(tmp_path, "mistake", MISTAKE)]
    assert launched(launcher, tasks) == {"well": None, "mistake": "It is wrong.\n  received: this"}


def test_what_a_job_raised_is_told(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launcher = slurm_launcher(tmp_path / "submitit", {"timeout_min": 1}, cluster="local", poll_seconds=0.05)
    (tmp_path / "file").touch()
    nowhere = Task("nowhere", (sys.executable, "-c", ""), tmp_path / "file" / "nowhere.log")
    assert "FileExistsError" in str(launched(launcher, [nowhere])["nowhere"])


def test_what_a_cluster_needs_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match="refuses these arguments"):
        slurm_launcher(tmp_path, {"colour": "red"}, cluster="local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm"):
        slurm_launcher(tmp_path, {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"rrm-transfer\[slurm\]"):
        slurm_launcher(tmp_path, {})
