"""Is the teacher what it should be? Measured before anything is trained."""

from __future__ import annotations

from pathlib import Path

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import Fit, choose_fit
from rrm_transfer.data.images import DataSet
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.engine.assembly import Assembly, automatic_size
from rrm_transfer.engine.evaluation import PGDSpec, balanced_sample, measure
from rrm_transfer.engine.labels import align_labels
from rrm_transfer.engine.metrics import Row
from rrm_transfer.engine.model_facts import facts_about
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.engine.runtime import Runtime
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.teacher import Teacher

IMAGES = 256
STEPS = 5
ROBUST_SHARE = 0.1
"""A teacher that keeps less than this part of its clean accuracy under a short attack is not robust."""


def check_assembled(assembly: Assembly, runtime: Runtime, narrator: Narrator) -> list[Row]:
    """Returns the rows of the teacher check of a run, none where there is nothing to check."""
    teacher, section = assembly.teacher, assembly.recipe.teacher
    if teacher is None or section is None or not section.check:
        return []
    if teacher.num_classes != assembly.data.num_classes:
        narrator.note("teacher check: left out, only its representation is used")
        return []
    return check_teacher(
        teacher,
        assembly.data,
        assembly.threat,
        fit=assembly.fit,
        batch_size=assembly.recipe.evaluate.batch_size,
        published=assembly.teacher_facts.published,
        runtime=runtime,
        narrator=narrator,
    )


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
    rows = _measure(teacher, data, threat, fit, batch_size=batch_size, runtime=runtime, narrator=narrator)
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


def quick_accuracy(
    source: str,
    dataset: str,
    *,
    arch: str | None,
    weights: Path | None,
    normalisation: str | None,
    allow_code: frozenset[str],
    narrator: Narrator,
) -> dict[str, object]:
    """Measures a teacher as a run would before training, for ``inspect``.

    Returns:
        ``clean`` and ``robust`` accuracy in [0, 1], ``count``, ``threat``, and the ``verdict`` in words.

    Raises:
        UserError: The teacher or the data cannot be used, or the teacher has other classes.
    """
    facts = facts_about(source)
    data = load_dataset_by_name(dataset, label_map=facts.label_map if dataset == facts.dataset else None)
    fit = choose_fit(data.test.size, facts.image_size or automatic_size(data))
    teacher = load_teacher(
        source,
        arch=arch,
        weights=weights,
        normalisation=normalisation,
        channels=data.channels,
        image_size=fit.size,
        allow_code=allow_code,
    )
    align_labels(teacher, data, narrator)
    if teacher.num_classes != data.num_classes:
        raise UserError(
            "The teacher's classes do not fit the data.",
            received=f"{teacher.num_classes} classes of the teacher, {data.num_classes} of {data.name}",
            hint="another --dataset",
        )
    norm = facts.norm or "Linf"
    threat = ThreatModel(norm, facts.eps_in(norm))
    clean, robust = _measure(teacher, data, threat, fit, batch_size=64, runtime=Runtime(), narrator=narrator)
    if at_chance(Proportion(clean.correct, clean.count), data.num_classes):
        verdict = "predicts at chance: wrong normalisation or label order?"
    elif robust.accuracy < ROBUST_SHARE * clean.accuracy:
        verdict = "accurate, NOT robust"
    else:
        verdict = "accurate and robust to a short attack"
    return {
        "clean": clean.accuracy,
        "robust": robust.accuracy,
        "count": clean.count,
        "threat": f"{threat} PGD-{STEPS}",
        "verdict": verdict,
    }


def _measure(
    teacher: Teacher,
    data: DataSet,
    threat: ThreatModel,
    fit: Fit,
    *,
    batch_size: int,
    runtime: Runtime,
    narrator: Narrator,
) -> list[Row]:
    """Returns the rows of clean and short-PGD accuracy on training images, or test images without those."""
    split = "train" if len(data.train) else "test"
    part = data.train if len(data.train) else data.test
    sample = balanced_sample(part.labels, IMAGES)
    return measure(
        teacher,
        part if sample is None else part.select(sample),
        [PGDSpec(threat, STEPS, restarts=1)],
        role="teacher",
        split=split,
        fit=fit,
        batch_size=batch_size,
        seed=0,
        runtime=runtime,
        narrator=narrator,
    )


def at_chance(clean: Proportion, classes: int) -> bool:
    """Tells whether an accuracy could be that of guessing: its interval reaches 1/classes."""
    return clean.interval()[0] <= 1 / classes
