"""Training on a GPU: compiled, stopped and resumed, out of memory, and without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.data.loader import Batch
from rrm_transfer.objectives import OBJECTIVES, build_objective
from rrm_transfer.runtime.numerics import prepare_determinism
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.students.student import build_student
from rrm_transfer.training.updating import Updater
from tests.training.small import PLAN, Run, equal

pytestmark = pytest.mark.gpu
prepare_determinism()  # before the first product on the device

_GIB = 1 << 30


@contextmanager
def no_waiting() -> Iterator[None]:
    """Has torch raise where the host would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("objective", ["natural", "rrm", "kd", "trades", "rrm-adv"])
def test_compiled_it_has_the_losses_that_it_has_plain(objective: str, tmp_path: Path) -> None:
    """The first three replay their launches, the others do not."""
    plain, compiled = (
        Run(tmp_path / str(c), plan=replace(PLAN, compile=c), objective=objective, float64=True)
        for c in (False, True)
    )
    plain()
    compiled()
    for here, there in zip(compiled.losses, plain.losses, strict=True):
        assert here == pytest.approx(there, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"channels_last": True, "precision": "bf16"},
        {"ema": 0.9, "accumulation": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("objective", ["rrm", "pgd-at", "free-at"])
def test_a_deterministic_run_that_is_resumed_ends_like_one_left_alone(
    objective: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"plan": replace(PLAN, deterministic=True, **changes), "objective": objective}
    whole = Run(tmp_path / "whole", **options)
    whole()
    with pytest.raises(Interrupted):
        Run(tmp_path / "parts", **options, stop_after=7)()
    resumed = Run(tmp_path / "parts", **options)
    resumed(resume=True)
    assert equal(resumed.weights, whole.weights)


def test_memory_that_runs_out_names_the_batch_that_fits(gpu: torch.device) -> None:
    student = build_student("resnet18", num_classes=10, channels=3, image_size=224)
    updater = Updater(
        PLAN, runtime=Runtime(), student=student, teacher=None, objective=build_objective("natural"),
        steps_per_epoch=1,
    )  # fmt: skip
    images = 512
    batch = Batch(
        torch.arange(images, device=gpu),
        torch.rand(images, 3, 224, 224, device=gpu),
        torch.zeros(images, dtype=torch.int64, device=gpu),
        torch.ones(images, device=gpu),
    )
    torch.cuda.set_per_process_memory_fraction(4 * _GIB / torch.cuda.get_device_properties(gpu).total_memory)
    with (
        updater.prepared() as prepared,
        pytest.raises(UserError, match=r"images in a forward pass; \d+ fit") as caught,
    ):
        updater.update(prepared, 0, batch)
    assert "train.accumulation=" in str(caught.value.hint)


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"rdt"}))
def test_a_step_does_not_wait(objective: str, tmp_path: Path) -> None:
    run = Run(tmp_path, objective=objective)
    updater, batches = run.trainer._updater, run.trainer.loader.epoch(0)
    first = next(batches)
    with updater.prepared() as prepared:
        for _ in range(2):
            updater.update(prepared, 0, first)
        with no_waiting():
            updater.update(prepared, 0, next(batches))
