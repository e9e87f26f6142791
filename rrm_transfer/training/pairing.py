"""What an objective asks of a student and its teacher before they are trained together."""

from __future__ import annotations

from rrm_transfer.core.errors import UserError
from rrm_transfer.objectives.base import Need, Objective
from rrm_transfer.students.student import Student
from rrm_transfer.teachers.teacher import Teacher

TAKES_CLASSIFIER: frozenset[Need] = frozenset({"classifier", "frozen_classifier"})


def pair(student: Student, teacher: Teacher, objective: Objective, *, seed: int) -> None:
    """Gives the student the teacher's classifier, and has both return layers, where the objective says so.

    Args:
        student: With its initial weights.
        teacher: That it is to learn from.
        objective: The loss.
        seed: Of initial weights.

    Raises:
        UserError: The teacher has no classifier, or one of the two no such layer.
    """
    if objective.needs & TAKES_CLASSIFIER:
        classifier = teacher.classifier()
        if classifier is None:
            raise UserError(
                "The objective takes the teacher's classifier, and it has none.", received=teacher.name
            )
        student.adopt_classifier(*classifier, frozen="frozen_classifier" in objective.needs)
    if objective.layers:
        widths = teacher.read_layers([layers.teacher for layers in objective.layers])
        student.read_layers([layers.student for layers in objective.layers], widths, seed=seed)
