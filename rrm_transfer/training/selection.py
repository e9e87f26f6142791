"""Selection of weights by robust accuracy on the held-out part of the training split.

Robust accuracy falls again while training goes on: Rice, Wong and Kolter, "Overfitting in adversarially
robust deep learning" (ICML 2020, arXiv 2002.11569). What is selected here was never trained on, and the test
split is left to the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.images import ImageSet
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.training.execution import uncompiled

IMAGES = 1000
"""Of the held-out part, a fixed balanced sample, where it has more."""
STEPS = 10
"""Of PGD, started once."""

Judge = Callable[[nn.Module], list[Row]]
"""Measures a network; returns the rows of clean and of robust accuracy."""


@dataclass(frozen=True)
class Score:
    """How a network did after optimizer step ``step``: images classified correctly, of ``count``."""

    step: int
    clean: int
    robust: int
    count: int

    def beats(self, other: Score | None) -> bool:
        """Tells whether this is better: more robust, or as robust and more accurate."""
        return other is None or (self.robust, self.clean) > (other.robust, other.clean)


class Selection:
    """Remembers the best weights so far.

    Args:
        judge: Measures a network.
        every: Epochs between evaluations; there is one more at the end of training.

    Attributes:
        score: Of the best weights, None before the first evaluation.
        weights: The best ones, on the CPU.
        seconds: Spent on evaluations.
    """

    def __init__(self, judge: Judge, *, every: int) -> None:
        self._judge = judge
        self._every = every
        self._last_step = 0
        self.score: Score | None = None
        self.weights: dict[str, Tensor] = {}
        self.seconds = 0.0

    def is_due(self, step: int, *, steps_per_epoch: int, total_steps: int) -> bool:
        """Tells whether the weights after ``step`` are to be evaluated and have not been."""
        ends = step % (self._every * steps_per_epoch) == 0 or step == total_steps
        return ends and step > self._last_step

    def evaluate(self, network: nn.Module, step: int) -> dict[str, Any]:
        """Measures a network and keeps its weights if they are the best.

        Returns:
            What to log.
        """
        began = time.monotonic()
        with uncompiled(network):
            clean, robust = self._judge(network)
        self._last_step = step
        score = Score(step, clean.correct, robust.correct, robust.count)
        best = score.beats(self.score)
        if best:
            self.score = score
            self.weights = {
                name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, value in network.state_dict().items()
            }
        self.seconds += time.monotonic() - began
        measured = {"eps": robust.eps, "norm": robust.norm, "steps": robust.steps, "count": robust.count}
        return {"clean": clean.accuracy, "robust": robust.accuracy, **measured, "best": best}

    def facts(self) -> dict[str, Any]:
        """Returns what must be kept beside the best weights to go on; JSON values only."""
        score = None if self.score is None else asdict(self.score)
        return {"last_step": self._last_step, "score": score, "seconds": self.seconds}

    def restore(self, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Goes back to where ``facts`` were taken."""
        self._last_step = facts["last_step"]
        self.score = None if facts["score"] is None else Score(**facts["score"])
        self.seconds = facts["seconds"]
        self.weights = dict(weights)


def held_out_judge(images: ImageSet, threat: ThreatModel, measurement: Measurement) -> Judge:
    """Returns a judge that runs a short PGD, in float32 and evaluation mode; see ``IMAGES`` and ``STEPS``.

    Args:
        images: The held-out part.
        threat: Of the run, at its full eps.
        measurement: How; random starts are the same at every evaluation.
    """
    silent = replace(measurement, context=measurement.context.silent)  # training has the bar
    chosen, attack = images.balanced(IMAGES), measurement.pgd(threat, steps=STEPS)

    def judge(network: nn.Module) -> list[Row]:
        return silent.rows(network, chosen, [attack], model="student", split="held-out")

    return judge
