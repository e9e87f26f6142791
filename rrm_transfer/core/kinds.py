"""The kinds of networks that are trained differently."""

from __future__ import annotations

from typing import Literal

Kind = Literal["convolutional", "transformer"]
"""Usually trained by SGD, or by AdamW with a warm-up; `students.student.kind_of` tells which a network is."""
