"""One batch as an objective sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import InnerAttack, PerSampleLoss
from rrm_transfer.core.outputs import Outputs, at_least_float32
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.core.threat import ThreatModel
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

    def attack(self, loss: PerSampleLoss, inner: InnerAttack) -> Tensor:
        # Evaluation mode: the network that will be deployed is attacked, and running statistics follow the final
        # inputs alone. So do TRADES, RSLAD, AdaAD and Madry's library; ARD, IAD, FGSM-RS, N-FGSM and the RRM
        # paper's adversarial training attack in training mode. Pang et al. (ICLR 2021, arXiv 2010.00467) find
        # more clean accuracy and about as much robustness this way. It is set for the whole ascent, because
        # activations that are computed again in a backward pass must be those of evaluation mode, too.
        with self.clock("attack"), evaluation_mode(self.bare):
            return inner.perturb(self.x, loss, self.threat, self.randomness)

    def _run(self, module: nn.Module, x: Tensor) -> Outputs:
        return run(module, x, self.autocast)


def run(module: nn.Module, x: Tensor, autocast: Autocast) -> Outputs:
    """Returns a network's outputs in float32 or better: losses are not computed in half precision."""
    with autocast():
        outputs: Outputs = module(x)
    return outputs.map(at_least_float32)


def infer(module: nn.Module, x: Tensor, autocast: Autocast = nullcontext) -> Outputs:
    """Returns the same without keeping anything for a backward pass."""
    with torch.inference_mode():
        outputs = run(module, x, autocast)
    # A loss may not keep tensors of inference mode, ordinary copies it may.
    return outputs.map(Tensor.clone)
