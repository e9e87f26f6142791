"""What steps cost, and what follows from it for a whole recipe."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrm_transfer.objectives import build_objective
from rrm_transfer.recipe.defaults import Numerics
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.runs.spent import Spent
from rrm_transfer.training.passes import Passes

SAT = "pgd-at"
_HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """What one objective's training step costs.

    Attributes:
        name: Of the objective.
        cached: Whether the teacher's representation is read from a cache.
        replays: Optimizer steps on each batch.
        seconds: Of each measured step, data included.
        images: Of a step, over all processes.
        peak_bytes: Most memory of one process: weights, optimizer, teacher and one step.
        parts: Mean seconds by part of a step, measured by itself.
        passes: Of training as many epochs as the recipe with it.
    """

    name: str
    cached: bool
    replays: int
    seconds: Sequence[float]
    images: int
    peak_bytes: int
    parts: dict[str, float]
    passes: Passes

    @property
    def passes_per_step(self) -> float:
        """Passes of an optimizer step for each of its images, in the mean over training."""
        return self.passes.per_image / self.replays

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, in seconds."""
        if len(self.seconds) == 1:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    @property
    def images_per_second(self) -> float:
        """Images that are done with, so that replays count once."""
        return self.images / (self.replays * self.median)


@dataclass(frozen=True)
class Choice:
    """What a step of the recipe's objective takes in a precision and a memory format.

    Attributes:
        numerics: The precision and the format.
        seconds: Of a step, without its data.
    """

    numerics: Numerics
    seconds: float


@dataclass(frozen=True)
class CostReport:
    """What was measured.

    Attributes:
        recipe: Resolved.
        device: Where.
        processes: How many.
        batches: Global batches of an epoch.
        data_seconds: To make or wait for one batch, with nothing else going on.
        data_overlaps: Whether other processes decode while the step works.
        costs: Of the objectives; plain training first.
        passes: That training the recipe's student will take.
        teacher: What its source says of the teacher's own training; None where there is no teacher.
        choices: Of precision and memory format, the recipe's first; empty where they were not measured.
        extra_batches: Global batches that the images beside the labelled ones make.
    """

    recipe: ResolvedRecipe
    device: str
    processes: int
    batches: int
    data_seconds: float
    data_overlaps: bool
    costs: Sequence[Cost]
    passes: Passes
    teacher: Spent | None = None
    choices: Sequence[Choice] = ()
    extra_batches: float = 0.0

    def cost(self, name: str, *, cached: bool = False) -> Cost | None:
        return next((c for c in self.costs if (c.name, c.cached) == (name, cached)), None)

    def ratio(self, cost: Cost) -> float:
        """Returns a step's cost in units of plain training's."""
        return cost.median / self.costs[0].median

    @property
    def data_is_bottleneck(self) -> bool:
        """Whether a plain step waits for its images."""
        plain = self.costs[0]
        return self.data_overlaps and self.data_seconds >= plain.median

    @property
    def makes_images(self) -> bool:
        """Whether training begins with images made anew, whose cost no step tells."""
        objective = self.recipe.objective
        return build_objective(objective.name, **objective.arguments).inversion is not None

    @property
    def train_seconds(self) -> float | None:
        """What training the recipe's student takes, its cache included; None where that was not measured."""
        if self.makes_images:
            return None
        name, teacher = self.recipe.objective.name, self.recipe.teacher
        live = self.cost(name)
        cached = None if teacher is None or teacher.cache is None else self.cost(name, cached=True)
        if live is None:
            return None
        cost = cached or live
        steps = self.recipe.train.epochs * self.batches * cost.replays * cost.median
        if cached is None or teacher is None or teacher.cache is None:
            return steps
        return steps + teacher.cache.views * (self.batches + self.extra_batches) * live.parts["teacher"]

    @property
    def control_seconds(self) -> float:
        """What training the control takes; 0 where there is none."""
        control = self.recipe.control
        return control.epochs * self.batches * self.costs[0].median if control.enabled else 0.0

    @property
    def sat_passes(self) -> Passes | None:
        """What PGD adversarial training for as many epochs would take; None where it was not measured."""
        sat = self.cost(SAT)
        return None if sat is None else sat.passes

    def to_json(self) -> dict[str, Any]:
        train, student, sat = self.recipe.train, self.recipe.student, self.sat_passes
        seconds = self.train_seconds
        return {
            "schema": 1,
            "device": self.device,
            "processes": self.processes,
            "student": student.name,
            "teacher": None if self.recipe.teacher is None else self.recipe.teacher.name,
            "dataset": self.recipe.data.name,
            "image_size": self.recipe.data.image_size,
            "global_batch_size": train.global_batch_size,
            "precision": train.precision,
            "channels_last": train.channels_last,
            "steps": len(self.costs[0].seconds),
            "data": {
                "ms": 1e3 * self.data_seconds,
                "overlaps": self.data_overlaps,
                "bottleneck": self.data_is_bottleneck,
            },
            "objectives": [self._entry(cost) for cost in self.costs],
            "numerics": [
                {
                    "precision": choice.numerics.precision,
                    "channels_last": choice.numerics.channels_last,
                    "step_ms": 1e3 * choice.seconds,
                    "ratio_to_chosen": choice.seconds / self.choices[0].seconds,
                }
                for choice in self.choices
            ],
            "recipe": {
                "objective": self.recipe.objective.name,
                "epochs": train.epochs,
                "train_hours": None if seconds is None else seconds / _HOUR,
                "control_hours": self.control_seconds / _HOUR,
                "passes": self.passes.to_json(),
                "pgd_at_passes": None if sat is None else sat.to_json(),
                "teacher": None if self.teacher is None else self.teacher.to_json(),
            },
        }

    def _entry(self, cost: Cost) -> dict[str, Any]:
        return {
            "name": cost.name,
            "cached": cost.cached,
            "replays": cost.replays,
            "step_ms": 1e3 * cost.median,
            "step_ms_spread": 1e3 * cost.spread,
            "images_per_s": cost.images_per_second,
            "peak_mb": cost.peak_bytes / 2**20,
            "ratio_to_natural": self.ratio(cost),
            "passes_per_step": round(cost.passes_per_step, 4),
            "parts_ms": {part: 1e3 * seconds for part, seconds in cost.parts.items()},
        }
