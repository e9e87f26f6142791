"""The objective of a recipe."""

from __future__ import annotations

from rrm_transfer.objectives import build_objective
from rrm_transfer.objectives.base import Objective
from rrm_transfer.objectives.teacher_labels import TeacherLabels
from rrm_transfer.recipe.schema import Recipe


def objective_of(recipe: Recipe) -> Objective:
    """Builds what a recipe minimises, with labels for its extra images where the teacher is to give them."""
    objective = build_objective(recipe.objective.name, **recipe.objective.arguments)
    if recipe.data.extra and recipe.data.extra_labels == "teacher":
        return TeacherLabels(objective)
    return objective
