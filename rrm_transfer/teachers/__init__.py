"""Any robust checkpoint as a frozen teacher."""

from __future__ import annotations

from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.teacher import Teacher

__all__ = ["Teacher", "load_teacher"]
