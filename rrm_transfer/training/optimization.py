"""Optimizers and schedules, from timm's factories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.distributed.tensor import DTensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_FUSED_DEVICES = ("cpu", "cuda")
"""Where all weights are moved by one kernel."""


@dataclass(frozen=True)
class Optimization:
    """How weights are moved.

    Attributes:
        optimizer: A name that ``timm.optim`` knows.
        lr: The largest learning rate.
        momentum: Of SGD-like optimizers; others have their own.
        weight_decay: Not applied to biases and normalization weights.
        schedule: ``cosine`` per step to ``min_lr``, ``cyclic`` per step from ``min_lr`` up and back,
            ``multistep`` or ``constant``.
        milestones: Epochs at which ``multistep`` multiplies the rate by ``decay_rate``.
        warmup_epochs: Linear warm-up from zero; a cycle has none.
    """

    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "cyclic", "multistep", "constant"]
    min_lr: float
    milestones: Sequence[int]
    decay_rate: float
    warmup_epochs: float


def check_optimizer(name: str) -> None:
    """Checks that timm knows an optimizer.

    Raises:
        UserError: It does not.
    """
    names = list_optimizers()
    if name not in names:
        raise UserError(
            "Unknown optimizer.",
            received=name,
            allowed="a name of timm.optim.list_optimizers(), such as momentum, sgd, adamw, lamb",
            hint=did_you_mean(name, names),
        )


def build_optimizer(model: nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """Builds the optimizer over the parameters that require gradients.

    Raises:
        UserError: timm knows no optimizer of that name.
    """
    check_optimizer(settings.optimizer)
    kind = get_optimizer_class(settings.optimizer, bind_defaults=False)
    # Weights that are shared out over processes have no such kernels for every optimizer.
    suited = all(type(w.data) is not DTensor and w.device.type in _FUSED_DEVICES for w in model.parameters())
    fused = {"fused": True} if kind in _FUSED and suited else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model,
        opt=settings.optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        **fused,
    )
    return optimizer


class Schedule:
    """The learning rate as a function of the number of optimizer steps done, with no state of its own."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: Optimization, *, epochs: int, steps_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._settings = settings
        self._steps = epochs * steps_per_epoch
        self._scheduler: Any = None
        if settings.schedule == "cyclic":
            return  # timm has none
        if settings.schedule != "constant" or settings.warmup_epochs:
            sched = {"cosine": "cosine", "multistep": "multistep", "constant": "multistep"}[settings.schedule]
            self._scheduler, _ = create_scheduler_v2(
                optimizer,
                sched=sched,
                num_epochs=epochs,
                decay_milestones=sorted(settings.milestones)
                if settings.schedule == "multistep"
                else [epochs + 1],
                decay_rate=settings.decay_rate,
                min_lr=settings.min_lr,
                warmup_epochs=settings.warmup_epochs,
                warmup_lr=0.0,
                step_on_epochs=False,
                updates_per_epoch=steps_per_epoch,
            )

    def set(self, step: int) -> float:
        """Sets the rate for optimizer step ``step``, counted from 0, and returns it."""
        if self._settings.schedule == "cyclic":
            self._set_cyclic(step)
        elif self._scheduler is not None:
            self._scheduler.step_update(num_updates=step)
        return float(self._optimizer.param_groups[0]["lr"])

    def _set_cyclic(self, step: int) -> None:
        height = 1.0 - abs(2.0 * step / self._steps - 1.0)
        low, high = self._settings.min_lr, self._settings.lr
        for group in self._optimizer.param_groups:
            group["lr"] = (low + (high - low) * height) * group.get("lr_scale", 1.0)
