"""The objective as a ``timm.task.TrainingTask``, for timm's own training loop."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import Normalize, PixelStatistics, parse_statistics
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives import build_objective
from rrm_transfer.objectives.base import Objective
from rrm_transfer.students.student import Student
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.step import TrainingStep, pair

_THREAT = ThreatModel("Linf", 8 / 255)


class RRMTask(TrainingTask):  # type: ignore[misc]  # timm has no types
    """Trains a student with one of this package's objectives in timm's loop.

    Every call in training mode is one batch: it returns the loss, the student's logits and the loss terms by
    name. ``save_student`` exports what came of it.

    Args:
        student: From ``build_student``, with the teacher's width as ``feature_width``.
        teacher: From ``load_teacher``; None for an objective that needs none.
        objective: Its name, or one that is built.
        total_steps: Batches in all: some objectives change in the course of training.
        threat: Of objectives that attack or add noise.
        statistics: With which timm's loader has normalized the images, ``imagenet``, ``mean/std`` or built;
            None: they are pixels in [0, 1], as with ``--mean 0 0 0 --std 1 1 1``.
        seed: Of the objective's random numbers.
        device: Where the task computes.

    Raises:
        UserError: The objective needs what is not there, or uses each batch several times, which timm's
            loop does not.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher | None = None,
        objective: str | Objective = "rrm",
        *,
        total_steps: int,
        threat: ThreatModel = _THREAT,
        statistics: str | PixelStatistics | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(device=device, verbose=False)
        self.objective = build_objective(objective) if isinstance(objective, str) else objective
        if self.objective.needs and teacher is None:
            raise UserError("This objective needs a teacher.", received=type(self.objective).__name__)
        if self.objective.anchor is not None:
            raise UserError(
                "The task has no anchor.", received=self.objective.anchor, hint="rrm-transfer run"
            )
        if self.objective.replays > 1:
            raise UserError(
                "This objective uses each batch several times, and timm's loop uses it once.",
                received=type(self.objective).__name__,
                hint="rrm-transfer run",
            )
        if self.objective.needs and teacher is not None:
            pair(student, teacher, self.objective, seed=seed, takes_classifier=False)
        self.trainable_module: nn.Module = student
        self.teacher = teacher
        self.threat = threat
        self.total_steps = total_steps
        self.seed = seed
        if isinstance(statistics, str):
            statistics = parse_statistics(statistics)
        self.pixels = None if statistics is None else _Denormalize(statistics)
        self._step = 0
        self.to(self.device)

    @property
    def student(self) -> Student:
        """The student without timm's wrappers."""
        return cast(Student, unwrap_model(self.trainable_module))

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Computes the loss of one batch.

        Args:
            input: As the loader gives them, ``(B, C, H, W)``.
            target: Class indices, ``(B,)``.

        Returns:
            ``loss``, ``output`` (the student's logits) and every loss term under its name, unweighted.

        Raises:
            UserError: The targets are not class indices.
        """
        if target.dim() != 1 or target.is_floating_point():
            raise UserError(
                "The objectives take class indices.",
                received=f"targets of shape {tuple(target.shape)}",
                hint="timm's loop without --mixup and --cutmix",
            )
        x = input if self.pixels is None else self.pixels(input)
        step = _Recording(
            autocast=nullcontext,  # timm's loop has set it
            prepared=self.trainable_module,
            bare=self.student,
            frozen=self.teacher,
            x=x,
            y=target,
            label_weight=torch.ones_like(target, dtype=x.dtype),
            threat=self.threat,
            randomness=self._randomness(x),
            progress=min(self._step / self.total_steps, 1.0),
            first=0,
        )
        terms = self.objective(step)
        if self.training:
            self._step += 1
        loss = torch.stack([term.weight * term.value for term in terms]).sum()
        return {
            "loss": loss,
            "output": step.logits[0],
            **{term.name: term.value.detach() for term in terms},
        }

    def _randomness(self, x: Tensor) -> Randomness:
        """Returns the batch's and the process's own numbers: timm's loader does not tell the samples."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return Randomness(self.seed, self._step, rank * len(x) + torch.arange(len(x), device=x.device))

    def prepare_distributed(self, device_ids: list[int] | None = None, **options: Any) -> RRMTask:
        """Synchronises the student's gradients; a step may call it several times before it goes backward."""
        options = {"broadcast_buffers": False, **options}
        self.trainable_module = DistributedDataParallel(self.student, device_ids=device_ids, **options)
        return self

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """Returns a network that maps what the loader gives to logits; its weights are the student's."""
        module = self.get_trainable_module(ema=ema) if module is None else module
        return None if module is None else _Classifier(module, self.pixels)

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        return {} if ema else {"step": self._step}

    def load_task_state(
        self,
        state: Mapping[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        if state and not ema:
            self._step = int(state["step"])


@dataclass
class _Recording(TrainingStep):
    """Keeps the student's logits, which timm's loop may show."""

    logits: list[Tensor] = field(default_factory=list)

    def student(self, x: Tensor) -> Outputs:
        outputs = super().student(x)
        self.logits.append(outputs.logits.detach())
        return outputs


class _Classifier(nn.Module):
    def __init__(self, module: nn.Module, pixels: nn.Module | None) -> None:
        super().__init__()
        self.module = module  # timm looks under this name for what it saves
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        outputs: Outputs = self.module(x if self.pixels is None else self.pixels(x))
        return outputs.logits


class _Denormalize(Normalize):
    """Takes normalized images back to pixels in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.std + self.mean).clamp(0.0, 1.0)
