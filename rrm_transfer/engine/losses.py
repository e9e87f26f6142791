"""The losses of recent steps, read now and then so that a step does not wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.engine.runtime import Runtime

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
        self._names: list[str] = []
        self._values: list[Tensor] = []
        self._steps: list[int] = []

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Adds the terms of optimiser step ``step``, counted from 1."""
        self._names = list(terms)
        self._values.append(torch.stack(list(terms.values())))
        self._steps.append(step)

    def check(self) -> Tensor:
        """Returns the terms, ``(steps, terms)``, all finite, the same on every process.

        Raises:
            UserError: One is not.
        """
        table = self._runtime.mean(torch.stack(self._values)) if self._values else torch.zeros(0, 0)
        wrong = (~table.isfinite()).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            step = self._steps[row]
            raise UserError(
                f"The loss term {self._names[column]!r} is not finite at step {step}, {self._place(step)}.",
                received=float(table[row, column]),
                hint=REMEDY,
            )
        return table

    def read(self) -> dict[str, float]:
        """Returns the mean of each term since the last call; see ``check``."""
        table = self.check()
        self._values, self._steps = [], []
        return dict(zip(self._names, table.mean(0).tolist(), strict=True)) if len(table) else {}
