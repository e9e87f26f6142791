"""The networks and recipes that the benchmarks measure; all run offline, on the embedded data."""

from __future__ import annotations

from pathlib import Path

import torch

from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import build_student

STUDENTS = {
    "resnet18": {"name": "resnet18", "args": {"stem": "cifar"}},
    "vit": {"name": "vit_tiny_patch16_224", "args": {"patch_size": 4, "img_size": 32}, "start": "scratch"},
    "test_resnet": {"name": "test_resnet", "args": {"output_stride": 8}},
    "test_vit": {"name": "test_vit", "start": "scratch"},
}
TEACHER = ("resnet18", {"output_stride": 8})
"""Untrained: what a step costs does not depend on the weights."""
_SMALL_TEACHER = ("test_resnet", {"output_stride": 8})


def write_teacher(folder: Path, *, small: bool) -> Path:
    """Writes a teacher for the embedded data as a stock timm folder."""
    name, args = _SMALL_TEACHER if small else TEACHER
    student = build_student(name, num_classes=10, channels=1, image_size=32, args=args)
    sample = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    save_student(student, folder, sample=sample, class_names=None, license=None, rrm={})
    return folder


def recipe(student: str, teacher: Path, *, batch: int, overrides: list[str]) -> Recipe:
    """Returns matching with the paper's settings on the embedded data."""
    content = {
        "teacher": {"name": str(teacher), "check": False},
        "student": STUDENTS[student],
        "data": {"name": "fashion-mnist-mini", "image_size": 32},
        "threat": {"norm": "Linf", "eps": "8/255"},
        "objective": {"name": "rrm"},
        "train": {"global_batch_size": batch},
        "control": {"enabled": False},
    }
    return build_recipe(content, overrides)
