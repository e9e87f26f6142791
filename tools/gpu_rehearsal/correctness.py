"""Part 1: the tests of a GPU, gradients against the CPU, every form of a student, waits of the host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from rrm_transfer.data.augment import Augmentation
from rrm_transfer.evaluation.evaluator import strict_float32
from rrm_transfer.runtime.parallel import shard
from rrm_transfer.training.averaging import MovingAverage
from rrm_transfer.training.optimization import build_optimizer
from tools.benchmarks.record import CHECKOUT, circumstances
from tools.gpu_rehearsal.findings import Findings, Row
from tools.gpu_rehearsal.subjects import CROP_AND_FLIP, PLAN, Subjects

_OBJECTIVES = ("natural", "rrm", "kd", "rrm-adv", "fast-at", "pgd-at", "trades", "free-at")
_CHANGES = {
    "crop and flip": CROP_AND_FLIP,
    "jitter": Augmentation(jitter=0.1),
    "lighting": Augmentation(lighting=0.05),
    "rotation": Augmentation(rotation=5.0),
    "resized crop": Augmentation(random_resized_crop=(0.2, 1.0)),
}
_WARMING = 3


def rehearse(subjects: Subjects, findings: Findings) -> None:
    """Finds what a GPU computes otherwise than a CPU."""
    with findings.row("machine") as row:
        cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        row.update(circumstances(), cuda=torch.version.cuda, cudnn=cudnn)
    with findings.row("gradient against the CPU's") as row:
        here, there = (
            _gradient(subjects, device) for device in (subjects.runtime.device, torch.device("cpu"))
        )
        row["relative"] = float((here - there).norm() / there.norm())
        assert row["relative"] < 1e-4, "they differ"
    if subjects.on_gpu:
        with findings.row("tests of a GPU") as row:
            _run_tests(row)
    compiled = (False,) if subjects.small else (False, True)
    objectives = ("fast-at",) if subjects.small else ("rrm", "fast-at", "trades", "free-at")
    with _one_rank(subjects):
        for form, is_compiled, objective in findings.in_time(product(("DDP", "FSDP2"), compiled, objectives)):
            with findings.row("form", form=form, compiled=is_compiled, objective=objective) as row:
                row.update(_two_steps(subjects, form, objective, compiled=is_compiled))
    if subjects.on_gpu:
        for part, work in findings.in_time(_parts(subjects)):
            with findings.row("waits", part=part) as row:
                row["at"] = _place_of_waiting(work())


def _gradient(subjects: Subjects, device: torch.device) -> Tensor:
    student = subjects.student().to(device).train()
    batch = next(subjects.batches(8, device=device))
    with strict_float32(device):
        outputs = student(batch.x)
        (outputs.logits.square().mean() + outputs.features.square().mean()).backward()
    weights = (weight for weight in student.parameters() if weight.grad is not None)
    return torch.cat([weight.grad.flatten().cpu() for weight in weights if weight.grad is not None])


def _run_tests(row: Row) -> None:
    """Runs the tests that are marked for a GPU, in a process of their own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-m",
        "gpu",
        "tests/gpu",
        "tests/data",
        "--timeout=120",
    ]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    row["summary"] = ended.stdout.strip().splitlines()[-1:]
    row["names"] = re.findall(r"^FAILED (\S+)", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0, "some failed"


@contextmanager
def _one_rank(subjects: Subjects) -> Iterator[None]:
    """A group of this process alone: hooks, streams and kernels are those of many."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29611")
    dist.init_process_group("nccl" if subjects.on_gpu else "gloo", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _two_steps(subjects: Subjects, form: str, objective: str, *, compiled: bool) -> Row:
    device = subjects.runtime.device
    updater = subjects.updater(objective)
    student: nn.Module = updater.student.to(device)
    if form == "FSDP2":
        student = prepared = shard(student, init_device_mesh(device.type, (1,)))
    else:
        places = [device.index] if subjects.on_gpu else None
        prepared = DistributedDataParallel(student, device_ids=places, broadcast_buffers=False)
    updater.student, updater.optimizer = student, build_optimizer(student, PLAN.optimization)
    if compiled:
        student.compile()
    batches = subjects.batches(8)
    for _ in range(2):
        terms = updater.update(prepared, 0, next(batches))
    return {name: round(float(value), 4) for name, value in terms.items()}


def _parts(subjects: Subjects) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    """Yields what should have the host wait for nothing, by name; called, each makes its work ready."""
    for name, augmentation in _CHANGES.items():
        yield f"images, {name}", partial(_making_images, subjects, augmentation)
    for objective in _OBJECTIVES:
        yield f"step, {objective}", partial(_stepping, subjects, objective)
    yield "step, clip_grad", partial(_stepping, subjects, "natural", clip_grad=1.0)
    yield "average", partial(_averaging, subjects)


def _making_images(subjects: Subjects, augmentation: Augmentation) -> Callable[[], object]:
    batches = subjects.batches(128, augmentation=augmentation)
    return lambda: next(batches)


def _stepping(subjects: Subjects, objective: str, **changes: float) -> Callable[[], object]:
    updater = subjects.updater(objective, replace(PLAN, **changes))  # type: ignore[arg-type]
    batch = next(subjects.batches(64))
    updater.student.to(subjects.runtime.device)
    return lambda: updater.update(updater.student, 0, batch)


def _averaging(subjects: Subjects) -> Callable[[], object]:
    student = subjects.student().to(subjects.runtime.device)
    average = MovingAverage(student, decay=0.99)
    return lambda: average.update(student, 9)


def _place_of_waiting(work: Callable[[], object]) -> str:
    """Returns the line of the package in which the host waits for the device; ``nowhere`` if it does not."""
    for _ in range(_WARMING):
        work()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "rrm_transfer" in f.filename]
        if not frames:
            raise
        return f"{frames[-1].filename.rpartition('rrm_transfer/')[2]}:{frames[-1].lineno} {frames[-1].line}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "nowhere"
