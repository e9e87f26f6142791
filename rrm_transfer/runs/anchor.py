"""The clean network beside the teacher, to which an objective may draw the student."""

from __future__ import annotations

from rrm_transfer.core.errors import UserError
from rrm_transfer.objectives.base import START, Objective
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.models import LoadedData, load_classifier
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.teacher import Teacher


def find_anchor(
    objective: Objective,
    start: str,
    loaded: LoadedData,
    context: Context,
    *,
    allow_code: frozenset[str] = frozenset(),
) -> Teacher | None:
    """Loads the clean network that an objective draws the student to; None where that is the student itself.

    Args:
        objective: That will be minimised.
        start: Where the student starts; see ``choose_start``.
        loaded: What the anchor will be shown.
        context: See ``load_model``.
        allow_code: See ``load_model``.

    Raises:
        UserError: It cannot be loaded, has other classes, or the student has no weights to start from.
    """
    if objective.anchor is None:
        return None
    if objective.anchor == START:
        if start != "pretrained":
            raise UserError(
                "The student is to be drawn to its own start, and an untrained network is no anchor.",
                received=f"objective.anchor=start with student.start={start}",
                hint="--student-weights FILE or --pretrained, or another network as objective.anchor",
            )
        return None
    try:
        return load_classifier(TeacherSection(name=objective.anchor), loaded, context, allow_code=allow_code)
    except UserError as problem:
        if "--teacher-" not in (problem.hint or ""):
            raise
        raise UserError(  # those options are of the teacher
            problem.what,
            received=problem.received,
            hint="an anchor is a name or a folder that says so itself, such as a run's",
        ) from None
