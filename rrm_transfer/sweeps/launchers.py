"""Where the runs of a sweep take place: here, one after the other, or on a cluster."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.runtime.progress import Narrator

_INTERRUPTED = 130
_POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Task:
    """A command of its own.

    Attributes:
        name: Of the run.
        command: Program and arguments.
        log: Gets everything that it prints.
    """

    name: str
    command: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Ended:
    """How a task ended; ``error`` says why it failed, None where it did not."""

    task: Task
    error: str | None


Launcher = Callable[[Sequence[Task], Narrator], Iterator[Ended]]
"""Carries tasks out; yields each when it has ended."""


def launch_here(tasks: Sequence[Task], narrator: Narrator) -> Iterator[Ended]:
    """Carries tasks out one after the other on this machine.

    Raises:
        Interrupted: A task was asked to stop, or this process was; the task has saved its state.
    """
    for number, task in enumerate(tasks, 1):
        narrator.note(f"run {number} of {len(tasks)}: {task.name}")
        code = carry_out(task, narrator.note)
        if code == _INTERRUPTED:
            raise Interrupted(f"stopped in {task.name}")
        yield Ended(task, None if code == 0 else _error(task, code))


def carry_out(task: Task, echo: Callable[[str], None] | None = None) -> int:
    """Runs a task's command to its end and returns its exit code.

    Args:
        task: What to run.
        echo: Gets each line that the command writes to standard error.
    """
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            task.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.PIPE,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                log.write(line)
                log.flush()
                if echo is not None:
                    echo(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            # The command saves its state and ends, whoever else got the signal.
            with suppress(ProcessLookupError):
                process.terminate()
            process.communicate()
            raise


def slurm_launcher(
    folder: Path, arguments: Mapping[str, Any], *, cluster: str = "slurm", poll_seconds: float = _POLL_SECONDS
) -> Launcher:
    """Returns a launcher that submits every task at once through submitit and waits for all.

    A job that is preempted or runs out of time is queued again and resumes.

    Args:
        folder: For submitit's files; seen by all machines.
        arguments: Of submitit's ``AutoExecutor.update_parameters``.
        cluster: ``slurm``, or ``local`` for processes on this machine.
        poll_seconds: Between two looks at the jobs.

    Raises:
        UserError: submitit or Slurm is missing, or an argument is unknown.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "A cluster's runs are submitted through submitit, which is not installed.",
            hint='pip install "rrm-transfer[slurm]"',
        ) from None
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "There is no Slurm on this machine: the command sbatch is missing.", hint="--launcher local"
        )
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    try:
        executor.update_parameters(**arguments)
    except (NameError, TypeError, ValueError, AssertionError) as error:
        received = " ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(f"submitit refuses these arguments: {error}", received=received) from None

    def launch(tasks: Sequence[Task], narrator: Narrator) -> Iterator[Ended]:
        with executor.batch():
            jobs = [executor.submit(_ClusterTask(task)) for task in tasks]
        left = dict(zip(jobs, tasks, strict=True))
        narrator.note(f"submitted {len(jobs)} jobs: {', '.join(str(job.job_id) for job in jobs)}")
        try:
            while left:
                for job in [job for job in left if job.done()]:
                    task = left.pop(job)
                    narrator.note(f"job {job.job_id} has ended: {task.name}")
                    problem = job.exception()
                    if problem is not None:
                        yield Ended(task, f"job {job.job_id}: {_reason(problem)}")
                    else:
                        code = job.result()
                        yield Ended(task, None if code == 0 else _error(task, code))
                if left:
                    time.sleep(poll_seconds)
        except Interrupted:
            for job in left:
                job.cancel()
            narrator.note(f"cancelled {len(left)} jobs")
            raise

    return launch


@dataclass(frozen=True)
class _ClusterTask:
    task: Task

    def __call__(self) -> int:
        return carry_out(self.task)

    def checkpoint(self) -> Any:
        """Tells submitit what to queue in the place of a job that is ended early: the same, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _reason(problem: Exception) -> str:
    """Finds what a job raised: the last line of the trace that submitit puts between dashed lines."""
    text = str(problem)
    lines = [line.strip() for line in re.split(r"^-{5,}$", text, flags=re.MULTILINE)[:2][-1].splitlines()]
    return next((line for line in reversed(lines) if line), type(problem).__name__)


def _error(task: Task, code: int) -> str:
    """Finds the reason of a failure in a task's log: its last error message, else its last line."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in task.log.read_text(encoding="utf-8").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    message = lines[starts[-1] :] if starts else lines[-1:]
    return "\n".join(message).removeprefix("error: ") or f"exit code {code}"
