"""Any robust checkpoint as a frozen teacher."""

from __future__ import annotations

from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.zoo import ZooEntry, zoo, zoo_entry

__all__ = ["Teacher", "ZooEntry", "load_teacher", "zoo", "zoo_entry"]
