"""Part 5: a run that is stopped and resumed, checkpoints, AutoAttack, memory that runs out, two ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rrm_transfer.api import evaluate, read_recipe, transfer
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.runs.finished import FinishedRun
from rrm_transfer.runtime.progress import Narrator, Task
from tools.benchmarks.record import CHECKOUT
from tools.gpu_rehearsal.findings import Findings, Row
from tools.gpu_rehearsal.product import images, settings
from tools.gpu_rehearsal.subjects import Subjects


class Stopper(Narrator):
    """Has the process stopped, as by a scheduler, half-way through a student's training."""

    def task(self, title: str, total: int, *, done: int = 0) -> Task:
        return _StoppingTask(title, total) if title.startswith("student:") else super().task(title, total)


class _StoppingTask(Task):
    def __init__(self, title: str, total: int) -> None:
        super().__init__(None, title, total, 0)

    def update(self, done: int, facts: Mapping[str, str] | None = None) -> None:
        super().update(done, facts)
        if done >= self._total // 2:
            os.kill(os.getpid(), signal.SIGTERM)


def rehearse(subjects: Subjects, findings: Findings, *, cifar10: Path | None) -> None:
    """Stops, resumes, attacks and runs out of memory; the data are those of part 4."""
    data = images(subjects, cifar10)
    with findings.row("left alone") as row:
        row["train_s"] = _train(subjects, data, "whole").metrics.timing["student"]["train_seconds"]
    with findings.row("stopped and resumed") as row:
        try:
            _train(subjects, data, "broken", narrator=Stopper())
            raise AssertionError("it was not stopped")
        except Interrupted as stopped:
            row["stopped"] = str(stopped).splitlines()[0]
        _train(subjects, data, "broken", resume=True)
        row["largest_relative_difference"] = _difference(subjects)
    with findings.row("AutoAttack") as row:
        metrics, _ = evaluate(
            subjects.folder / "whole",
            dataset=str(data),
            attacks=["apgd-ce" if subjects.small else "autoattack"],
            steps=1 if subjects.small else None,
            images=8 if subjects.small else 500,
            batch_size=8 if subjects.small else 500,
            checks="none",
        )
        row.update({f"{each.attack}_accuracy": each.accuracy for each in metrics.rows})
    if not subjects.on_gpu:
        return
    with findings.row("a checkpoint after each step") as row:
        run = _train(subjects, data, "saving", {"train.checkpoint_minutes": 0})
        row["train_s"] = run.metrics.timing["student"]["train_seconds"]
    with findings.row("out of memory") as row:
        torch.cuda.empty_cache()
        try:
            _train(subjects, data, "large", {"train.global_batch_size": 32768, "train.precision": "float32"})
            raise AssertionError("it had memory enough")
        except UserError as error:
            row["told"] = str(error)
    with findings.row("two ranks on one GPU, gloo, TRADES") as row:
        row.update(_two_ranks(subjects, data))


def _train(
    subjects: Subjects,
    data: Path,
    name: str,
    changes: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    narrator: Narrator | None = None,
) -> FinishedRun:
    wanted = read_recipe("cifar10-linf/teacher-resnet18", settings(subjects, epochs=3) | dict(changes or {}))
    return transfer(
        wanted,
        dataset=data,
        student=subjects.network if subjects.small else None,
        objective="natural",
        output=subjects.folder / name,
        resume=resume,
        narrator=narrator,
    )


def _difference(subjects: Subjects) -> float:
    """Returns by how much the weights of the resumed run differ most from those of the other."""
    states = (
        load_file(subjects.folder / name / "checkpoints" / "student-final" / "state.safetensors")
        for name in ("whole", "broken")
    )
    one, other = states
    return max(
        float((one[name].float() - other[name].float()).norm() / one[name].float().norm().clamp(min=1e-9))
        for name in one
    )


def _two_ranks(subjects: Subjects, data: Path) -> Row:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "tools.gpu_rehearsal.one_device", "teach", "--recipe", "cifar10-linf/teacher-resnet18"),
        *("--objective", "trades", "--dataset", str(data), "--output", str(subjects.folder / "two")),
        *("--set", "train.epochs=1", "--set", "evaluate.images=200", "--quiet", "--json"),
    ]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=180)
    assert ended.returncode == 0, ended.stderr[-500:]
    return {"exit": ended.returncode}
