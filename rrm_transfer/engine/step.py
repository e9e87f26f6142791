"""One batch as an objective sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import inner_attack
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.base import InnerAttack, PerSampleLoss


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts ``module`` into evaluation mode for the block."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@dataclass
class TrainingStep:
    """Implements ``rrm_transfer.objectives.base.Step``.

    Attributes:
        autocast: Makes the context of every call of a network.
        prepared: The student as accelerate prepared it; gradients are synchronised through it.
        bare: The same student without the wrapper, for attacks.
        frozen: The teacher.
    """

    autocast: Callable[[], AbstractContextManager[Any]]
    prepared: nn.Module
    bare: nn.Module
    frozen: nn.Module | None
    x: Tensor
    y: Tensor
    threat: ThreatModel
    randomness: Randomness
    progress: float
    first: int
    _clean: Outputs | None = None

    def student(self, x: Tensor) -> Outputs:
        return self._run(self.prepared, x)

    def student_eval(self, x: Tensor) -> Outputs:
        with evaluation_mode(self.bare):
            return self._run(self.bare, x)

    def clean_teacher(self) -> Outputs:
        if self._clean is None:
            with torch.no_grad():
                self._clean = self.teacher(self.x)
        return self._clean

    def teacher(self, x: Tensor) -> Outputs:
        if self.frozen is None:
            raise ValueError("this run has no teacher")
        return self._run(self.frozen, x)

    def attack(self, ascend: PerSampleLoss, inner: InnerAttack) -> Tensor:
        return inner_attack(
            self.x,
            loss=ascend,
            threat=self.threat,
            randomness=self.randomness,
            steps=inner.steps,
            step_size=inner.step_size,
            start=inner.start,
            start_scale=inner.start_scale,
            clip=inner.clip,
        )

    def _run(self, module: nn.Module, x: Tensor) -> Outputs:
        with self.autocast():
            outputs: Outputs = module(x)
        intermediates = tuple(layer.float() for layer in outputs.intermediates)
        return Outputs(outputs.logits.float(), outputs.features.float(), intermediates)
