"""What can be checked of a recipe before anything is loaded: names, arguments, values that exclude others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.runs.extra import check_extra
from rrm_transfer.runs.learners import resolve_learner_name
from rrm_transfer.training.objective import objective_of
from rrm_transfer.training.optimization import check_optimizer
from rrm_transfer.objectives import OBJECTIVES, argument_problems, build_objective, objective_arguments
from rrm_transfer.recipe.defaults import check_together
from rrm_transfer.recipe.schema import ObjectiveSection, Recipe


def check_names(recipe: Recipe) -> Recipe:
    """Checks what needs no data: names of student and optimiser, the objective, values that exclude others.

    Returns:
        A copy with the exact student name and every argument of the objective.

    Raises:
        UserError: A name is unknown or an argument is wrong.
    """
    recipe = recipe.model_copy(deep=True)
    check_together(recipe)
    recipe.student.name = resolve_learner_name(recipe.student.name)
    _check_objective(recipe)
    check_extra(recipe)
    if recipe.train.optimizer is not None:
        check_optimizer(recipe.train.optimizer)
    return recipe


def require_no_teacher(recipe: Recipe) -> None:
    """Checks that a recipe makes a teacher from scratch.

    Raises:
        UserError: Its objective learns from another.
    """
    recipe = check_names(recipe)
    if objective_of(recipe).needs:
        raise UserError(
            "A robust teacher is made from scratch, and this objective learns from another.",
            received=recipe.objective.name,
            allowed="an objective without a teacher: pgd-at, trades, fast-at, n-fgsm, free-at or natural",
            hint="--objective pgd-at, or rrm-transfer run to learn from a teacher",
        )


def objective_problems(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Finds what is wrong with a recipe's objective, which the recipe's schema cannot know.

    Args:
        content: Of the whole recipe.

    Returns:
        Dotted paths with messages.
    """
    section = content.get("objective") or {}
    if not isinstance(section, Mapping) or not isinstance(section.get("name", ""), str):
        return []  # the schema says so
    name = section.get("name", ObjectiveSection().name)
    if name not in OBJECTIVES:
        hint = did_you_mean(str(name), OBJECTIVES.names)
        error = UserError(f"Unknown objective {name!r}.", allowed=OBJECTIVES.names, hint=hint)
        return [("objective.name", error.in_a_line)]
    problems = argument_problems(name, {key: value for key, value in section.items() if key != "name"})
    return [(f"objective.{argument}", error.in_a_line) for argument, error in problems]


def _check_objective(recipe: Recipe) -> None:
    name, arguments = recipe.objective.name, recipe.objective.arguments
    problems = objective_problems({"objective": recipe.objective.model_dump()})
    if problems:
        raise RecipeError(
            problems, hint=f"rrm-transfer run --objective {name} --help-objective lists its arguments"
        )
    for argument in objective_arguments(name):
        if argument.name not in arguments:
            setattr(recipe.objective, argument.name, argument.default)
    build_objective(name, **recipe.objective.arguments)  # arguments that do not go together
