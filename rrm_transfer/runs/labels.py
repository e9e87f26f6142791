"""The teacher's classes and the data's: the same, a part, or groups."""

from __future__ import annotations

from rrm_transfer.data.images import DataSet
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.teachers.labels import match_labels
from rrm_transfer.teachers.teacher import Teacher


def align_labels(teacher: Teacher, data: DataSet, narrator: Narrator) -> None:
    """Gives the teacher the data's classes where they can be told; says what was done.

    A label map groups the classes of a teacher that has the source's own. Otherwise classes are compared by
    name where both sides have names: a teacher may have more of them, or another order.
    """
    if teacher.num_classes is None:
        return
    if data.label_groups is not None:
        if teacher.num_classes > max(max(group) for group in data.label_groups):
            narrator.note(f"teacher: its {teacher.num_classes} classes grouped into {data.num_classes}")
            teacher.group_classes(data.label_groups, data.class_names)
        return
    if teacher.class_names is None or data.class_names is None or teacher.class_names == data.class_names:
        return
    index = match_labels(teacher.class_names, data.class_names)
    if index is None:
        if teacher.num_classes == data.num_classes:
            narrator.warn(
                f"the teacher's class names are not the data's ({teacher.class_names[0]!r} …, "
                f"{data.class_names[0]!r} …); they are taken in order"
            )
        return
    order = index.tolist()
    if order != list(range(teacher.num_classes)):
        narrator.note(f"teacher: {len(order)} of its {teacher.num_classes} classes matched by name")
        teacher.group_classes([[position] for position in order], data.class_names)
