"""The losses of recent steps, read now and then so that a step does not wait for the device."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime.processes import Runtime

REMEDY = (
    "the last checkpoint is kept: --resume-anyway with a lower train.lr, with train.clip_grad, or with "
    "--skip-bad-steps N"
)


class LossWindow:
    """The loss terms of each step since they were last read.

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
        """Adds the terms of optimiser step ``step``, counted from 1."""
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
