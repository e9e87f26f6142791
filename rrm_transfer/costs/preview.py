"""What a run would do and cost, before anything of it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from rrm_transfer.core.parameters import count_parameters
from rrm_transfer.costs.bench import measure
from rrm_transfer.costs.estimate import SAT, CostReport
from rrm_transfer.objectives import PLAIN
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.recipe.schema import ObjectiveSection, Recipe
from rrm_transfer.runs.resolve import resolve
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.student import Student

STEPS = 5


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Attributes:
        recipe: Resolved.
        facts: JSON values: shapes, parameters and widths of data, student and teacher.
        costs: Of its steps, beside plain and adversarial training.
    """

    recipe: ResolvedRecipe
    facts: dict[str, dict[str, Any]]
    costs: CostReport

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "recipe": self.recipe.model_dump(mode="json"),
            **self.facts,
            "cost": self.costs.to_json(),
        }


def preview(
    recipe: Recipe,
    *,
    allow_code: frozenset[str] = frozenset(),
    narrator: Narrator | None = None,
    steps: int = STEPS,
) -> Preview:
    """Resolves a recipe and measures a few steps of it; writes nothing.

    Args:
        recipe: Values left open are chosen.
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.
        narrator: Says what happens; None: nobody.
        steps: Measured steps of the recipe's objective, of plain and of adversarial training.

    Raises:
        UserError: The recipe cannot be run as it is.
    """
    setup = resolve(recipe, Context.begin(narrator), allow_code=allow_code)
    own = setup.recipe.objective
    others = [ObjectiveSection(name=name) for name in (PLAIN, SAT) if name != own.name]
    costs = measure(setup, sorted([own, *others], key=lambda it: it.name != PLAIN), steps=steps, strict=True)
    return Preview(setup.recipe, _facts(setup), costs)


def _facts(setup: Setup) -> dict[str, dict[str, Any]]:
    data, size, teacher = setup.loaded.images, setup.loaded.image_size, setup.teacher
    student = setup.student.outline(None if teacher is None else teacher.width)
    facts: dict[str, dict[str, Any]] = {
        "data": {
            "name": data.name,
            "train": len(data.train),
            "test": len(data.test),
            "classes": data.num_classes,
            "input": [data.channels, size, size],
            "fit": setup.loaded.fit.describe(data.test.size),
            "steps_per_epoch": len(data.train) // setup.recipe.train.global_batch_size,
            "extra": 0 if setup.extra is None else len(setup.extra),
        },
        "student": {"architecture": student.architecture, "parameters": count_parameters(student)},
    }
    if isinstance(student, Student):
        projection = student.head.projection
        linear = projection if isinstance(projection, nn.Linear) else None
        matched = student.head.classifier.in_features
        facts["student"] |= {
            "stock": student.stock,
            "start": setup.recipe.student.start,
            "head": setup.recipe.student.head,
            "width": matched if linear is None else linear.in_features,
            "projection": None if linear is None else [linear.in_features, linear.out_features],
        }
    if teacher is not None:
        facts["teacher"] = {
            "name": teacher.name,
            "architecture": teacher.architecture,
            "parameters": teacher.num_parameters,
            "width": teacher.width,
        }
    return facts
