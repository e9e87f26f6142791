"""One batch as an objective sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import inner_attack
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.base import InnerAttack, PerSampleLoss
from rrm_transfer.training.timing import Clock, untimed

Autocast = Callable[[], AbstractContextManager[Any]]


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
        frozen: The teacher, where there is one and it is asked.
        clean: The teacher's outputs on ``x``, where they are known.
        clock: Wraps the parts whose time is of interest.
    """

    autocast: Autocast
    prepared: nn.Module
    bare: nn.Module
    frozen: nn.Module | None
    x: Tensor
    y: Tensor
    label_weight: Tensor
    threat: ThreatModel
    randomness: Randomness
    progress: float
    first: int
    clean: Outputs | None = None
    clock: Clock = untimed

    def student(self, x: Tensor) -> Outputs:
        with self.clock("student forward"):
            return self._run(self.prepared, x)

    def student_eval(self, x: Tensor) -> Outputs:
        with self.clock("student forward"), evaluation_mode(self.bare):
            return self._run(self.bare, x)

    def clean_teacher(self) -> Outputs:
        if self.clean is None:
            self.clean = self.teacher(self.x)
        return self.clean

    def teacher(self, x: Tensor) -> Outputs:
        if self.frozen is None:
            raise ValueError("this run has no teacher")
        with self.clock("teacher"):
            if x.requires_grad:
                return self._run(self.frozen, x)
            return infer(self.frozen, x, self.autocast)

    def attack(self, ascend: PerSampleLoss, inner: InnerAttack) -> Tensor:
        # For the whole ascent: activations that are computed again must be those of evaluation mode, too.
        with self.clock("attack"), evaluation_mode(self.bare):
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
        return run(module, x, self.autocast)


def run(module: nn.Module, x: Tensor, autocast: Autocast) -> Outputs:
    """Returns a network's outputs as float32, in whatever precision they were computed."""
    with autocast():
        outputs: Outputs = module(x)
    return outputs.map(Tensor.float)


def infer(module: nn.Module, x: Tensor, autocast: Autocast = nullcontext) -> Outputs:
    """Returns the same without keeping anything for a backward pass."""
    with torch.inference_mode():
        outputs = run(module, x, autocast)
    # A loss may not keep tensors of inference mode, ordinary copies it may.
    return outputs.map(Tensor.clone)
