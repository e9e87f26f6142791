"""Students: any timm classifier, with a matched head that folds into a stock network."""

from rrm_transfer.students.description import StudentDescription, describe_student
from rrm_transfer.students.loading import LoadedStudent, load_student
from rrm_transfer.students.names import resolve_student_name
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import MatchedHead, Student, build_student

__all__ = [
    "LoadedStudent",
    "MatchedHead",
    "Student",
    "StudentDescription",
    "build_student",
    "describe_student",
    "load_student",
    "resolve_student_name",
    "save_student",
]
