"""Part 4: the product: a robust teacher, then a student that learns from a cache of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rrm_transfer.api import read_recipe, teach, transfer
from rrm_transfer.core.errors import UserError
from rrm_transfer.runs.finished import FinishedRun
from tools.gpu_rehearsal.findings import Findings, Row
from tools.gpu_rehearsal.subjects import Subjects, write_pictures

TEACHER = "taught"


def rehearse(subjects: Subjects, findings: Findings, *, cifar10: Path | None) -> None:
    """Trains both.

    Args:
        subjects: With what.
        findings: Filled.
        cifar10: The data; None: pictures that are made, in miniature only.
    """
    data = images(subjects, cifar10)
    with findings.row("teacher, PGD-7, 12 epochs") as row:
        run = teach(
            read_recipe("cifar10-linf/teacher-resnet18", settings(subjects, epochs=12)),
            dataset=data,
            student=subjects.network if subjects.small else None,
            output=subjects.folder / TEACHER,
        )
        row.update(_figures(run))
    with findings.row("student, RRM, 48 epochs, 8 views") as row:
        wanted = read_recipe("cifar10-linf/rrm-resnet18", settings(subjects, epochs=48))
        run = transfer(
            wanted,
            teacher=subjects.folder / TEACHER,
            student=subjects.network,
            dataset=data,
            output=subjects.folder / "student",
            settings={
                "teacher.check": False,
                "teacher.cache.views": 2 if subjects.small else 8,
                "control.enabled": False,
                "student.args": dict(subjects.arguments),
            },
        )
        row.update(_figures(run))


def images(subjects: Subjects, cifar10: Path | None) -> Path:
    """Returns the data of this part and the next.

    Raises:
        UserError: None are named, and these are no rehearsals in miniature.
    """
    if cifar10 is not None:
        return cifar10
    if not subjects.small:
        raise UserError(
            "The product is made from CIFAR-10.", hint="--cifar10 FOLDER, or RRM_TRANSFER_CIFAR10"
        )
    folder = subjects.folder / "small"
    return folder if folder.exists() else write_pictures(folder, 32, 32, classes=4, kind="png")


def settings(subjects: Subjects, *, epochs: int) -> dict[str, Any]:
    """Returns what a run takes, whichever it is; in miniature as little as it can."""
    small = {
        "train.epochs": 1,
        "train.global_batch_size": 16,
        "train.log_every": 1,
        "evaluate.images": 8,
        "evaluate.steps": 1,
        "evaluate.batch_size": 8,
        "student.args": {},
    }
    return small if subjects.small else {"train.epochs": epochs, "evaluate.images": 2000}


def _figures(run: FinishedRun) -> Row:
    timing = run.metrics.timing["student"]
    rows = [row for row in run.metrics.rows if row.model == "student"]
    return {
        "train_s": round(timing["train_seconds"], 2),
        "images_per_s": round(timing["images_per_s"]),
        **{f"{row.attack}_accuracy": round(row.accuracy, 4) for row in rows},
        "cache": timing.get("teacher_features"),
    }
