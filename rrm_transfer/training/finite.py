"""Losses and gradients that are not finite: steps that are undone, and losses that end the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.objectives.base import Objective
from rrm_transfer.runtime.parallel import own_part
from rrm_transfer.runtime.processes import Runtime

REMEDY = (
    "the last checkpoint is kept: --resume-anyway with a lower train.lr, with train.clip_grad, or with "
    "--skip-bad-steps N"
)


class _Before(NamedTuple):
    buffers: list[Tensor]
    objective: dict[str, Tensor]


class BadSteps:
    """Undoes steps whose loss or gradient is not finite, up to a limit; costs nothing where it is 0.

    All processes undo the same steps. What is beyond the limit is left to ``LossWindow`` and to the check of
    the weights, which end the run.

    Args:
        limit: How many steps may be undone in a phase.
        runtime: Asked whether any process has a bad step.
        student: Its gradients are those of all processes already; its buffers are put back.
        objective: Its state is put back.

    Attributes:
        found: Those undone so far, counted from 1, each with what was not finite.
    """

    def __init__(self, limit: int, runtime: Runtime, student: nn.Module, objective: Objective) -> None:
        self.found: list[tuple[int, str]] = []
        self._limit = limit
        self._runtime = runtime
        self._student = student
        self._objective = objective
        self._before = _Before([], {})

    def remember(self) -> None:
        """Keeps what a step changes before its loss is known."""
        if len(self.found) < self._limit:
            state = {name: value.clone() for name, value in self._objective.state_dict().items()}
            self._before = _Before([buffer.clone() for buffer in self._student.buffers()], state)

    def undoes(self, step: int, terms: Mapping[str, Tensor]) -> bool:
        """Tells, after the backward pass, whether ``step`` is bad; everything is then as it was before."""
        if len(self.found) >= self._limit:
            return False
        cause = self._cause(terms)
        if cause is None:
            return False
        self.found.append((step, cause))
        for buffer, value in zip(self._student.buffers(), self._before.buffers, strict=True):
            buffer.copy_(value)
        self._objective.load_state_dict(self._before.objective)
        self._student.zero_grad(set_to_none=True)
        return True

    def _cause(self, terms: Mapping[str, Tensor]) -> str | None:
        values = self._runtime.mean(torch.stack(list(terms.values()))).tolist()
        for name, value in zip(terms, torch.tensor(values).isfinite().tolist(), strict=True):
            if not value:
                return f"loss term {name!r}"
        gradients = [weight.grad for weight in self._student.parameters() if weight.grad is not None]
        finite = torch.stack([own_part(gradient).isfinite().all() for gradient in gradients]).all()
        return "gradient" if self._runtime.any(not bool(finite)) else None


class LossWindow:
    """The loss terms of each step since they were last read: now and then, as reading waits for the device.

    Args:
        runtime: Its processes hold equal parts of each batch, so the mean of their losses is the batch's.
        place: Says of a step which batch it trained on.
    """

    def __init__(self, runtime: Runtime, place: Callable[[int], str]) -> None:
        self._runtime = runtime
        self._place = place
        self._terms: list[dict[str, Tensor]] = []
        self._steps: list[int] = []

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Adds the terms of optimizer step ``step``, counted from 1."""
        self._terms.append(dict(terms))
        self._steps.append(step)

    def check(self) -> dict[str, list[float]]:
        """Returns each term's values in the steps that had it, all finite, the same on every process.

        Raises:
            UserError: One is not.
        """
        if not self._terms:
            return {}
        flat = torch.cat([torch.stack(list(terms.values())) for terms in self._terms])
        values = iter(self._runtime.mean(flat).tolist())
        by_name: dict[str, list[float]] = {}
        for step, terms in zip(self._steps, self._terms, strict=True):
            for name in terms:
                value = next(values)
                if not math.isfinite(value):
                    raise UserError(
                        f"The loss term {name!r} is not finite at step {step}, {self._place(step)}.",
                        received=value,
                        hint=REMEDY,
                    )
                by_name.setdefault(name, []).append(value)
        return by_name

    def read(self) -> dict[str, float]:
        """Returns the mean of each term since the last call; see ``check``."""
        means = {name: statistics.fmean(values) for name, values in self.check().items()}
        self._terms, self._steps = [], []
        return means
