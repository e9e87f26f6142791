"""Is the teacher what it should be? Measured before anything is trained."""

from __future__ import annotations

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import DataSet
from rrm_transfer.engine.evaluation import PGDSpec, balanced_sample, measure
from rrm_transfer.engine.metrics import Row
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.engine.runtime import Runtime
from rrm_transfer.teachers.teacher import Teacher

IMAGES = 256
STEPS = 5
ROBUST_SHARE = 0.1
"""A teacher that keeps less than this part of its clean accuracy under a short attack is not robust."""


def check_teacher(
    teacher: Teacher,
    data: DataSet,
    threat: ThreatModel,
    *,
    fit: Fit,
    batch_size: int,
    published: str | None,
    runtime: Runtime,
    narrator: Narrator,
) -> list[Row]:
    """Measures clean and short-PGD accuracy on training images (the test split is for the end).

    Returns:
        The two rows.

    Raises:
        UserError: The teacher predicts at chance.
    """
    sample = balanced_sample(data.train.labels, IMAGES)
    images = data.train if sample is None else data.train.select(sample)
    rows = measure(
        teacher,
        images,
        [PGDSpec(threat, STEPS, restarts=1)],
        role="teacher",
        split="train",
        fit=fit,
        batch_size=batch_size,
        seed=0,
        runtime=runtime,
        narrator=narrator,
    )
    clean, robust = rows
    beside = f" (published: {published})" if published else ""
    narrator.note(
        f"teacher check on {clean.count} training images: clean {clean.accuracy:.1%}, "
        f"{threat} PGD-{STEPS} {robust.accuracy:.1%}{beside}"
    )
    if at_chance(Proportion(clean.correct, clean.count), data.num_classes):
        raise UserError(
            "The teacher predicts at chance: wrong normalisation, or another order of labels?",
            received=f"{clean.accuracy:.1%} of {clean.count} images, {data.num_classes} classes",
            hint="--teacher-normalisation, or --skip-teacher-check to go on all the same",
        )
    if robust.accuracy < ROBUST_SHARE * clean.accuracy:
        narrator.warn(
            f"the teacher is accurate but not robust at {threat}; a student can inherit no robustness from it"
        )
    return rows


def at_chance(clean: Proportion, classes: int) -> bool:
    """Tells whether an accuracy could be that of guessing: its interval reaches 1/classes."""
    return clean.interval()[0] <= 1 / classes
