"""What a run would do and cost, before anything of it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rrm_transfer.costs.bench import measure
from rrm_transfer.costs.estimate import SAT, CostReport
from rrm_transfer.objectives import PLAIN
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.calibration import calibrate
from rrm_transfer.runs.learners import Learner
from rrm_transfer.runs.setup import Assembly, assemble
from rrm_transfer.runtime.processes import Runtime
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

    recipe: Recipe
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
    recipe: Recipe, *, allow_code: bool = False, narrator: Narrator | None = None, steps: int = STEPS
) -> Preview:
    """Resolves a recipe and measures a few steps of it; writes nothing.

    Args:
        recipe: Values left automatic are filled in.
        allow_code: Whether a teacher's ``package.module:factory`` may be imported and called.
        narrator: Says what happens; None: nobody.
        steps: Measured steps of the recipe's objective, of plain and of adversarial training.

    Raises:
        UserError: The recipe cannot be run as it is.
    """
    runtime = Runtime()
    narrator = narrator if narrator is not None and runtime.is_main else Narrator()
    assembly = assemble(recipe, runtime, narrator, allow_code=allow_code)
    student = assembly.student()
    calibrate(assembly, student, runtime, narrator)
    names = [PLAIN, assembly.recipe.objective.name, SAT]
    costs = measure(assembly, names, steps=steps, runtime=runtime, narrator=narrator, strict=True)
    return Preview(assembly.recipe, _facts(assembly, student), costs)


def _facts(assembly: Assembly, student: Learner) -> dict[str, dict[str, Any]]:
    data, teacher, train = assembly.data, assembly.teacher, assembly.recipe.train
    shape: Sequence[int] = (data.channels, assembly.fit.size, assembly.fit.size)
    facts: dict[str, dict[str, Any]] = {
        "data": {
            "name": data.name,
            "train": len(data.train),
            "test": len(data.test),
            "classes": data.num_classes,
            "input": list(shape),
            "fit": assembly.fit.describe(data.train.size),
            "steps_per_epoch": len(data.train) // (train.global_batch_size or 1),
            "extra": 0 if assembly.extra is None else len(assembly.extra),
        },
        "student": {"architecture": student.architecture, "parameters": _parameters(student)},
    }
    if isinstance(student, Student):
        projection = student.head.projection
        linear = projection if isinstance(projection, nn.Linear) else None
        matched = student.head.classifier.in_features
        facts["student"] |= {
            "stock": student.stock,
            "width": matched if linear is None else linear.in_features,
            "projection": None if linear is None else [linear.in_features, linear.out_features],
        }
    if teacher is not None:
        facts["teacher"] = {
            "name": teacher.name,
            "architecture": teacher.architecture,
            "parameters": _parameters(teacher),
            "width": teacher.width,
        }
    return facts


def _parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())
