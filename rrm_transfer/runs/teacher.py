"""What is measured of a teacher: whether it is what it should be, and its figures on the test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rrm_transfer import __version__
from rrm_transfer.attacks.attack import Attack
from rrm_transfer.core.documents import key_of
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import cache_folder
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.images import ImageSet
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import Metrics, Row, read_metrics
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs.models import LoadedData, load_with_data
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.teacher import Teacher

IMAGES = 256
STEPS = 5
ROBUST_SHARE = 0.1
"""A teacher that keeps less than this part of its clean accuracy under a short attack is not robust."""

Measure = Callable[[Sequence[Attack]], list[Row]]
"""Returns the row of clean accuracy, then one for each attack."""


def check_teacher(setup: Setup) -> list[Row]:
    """Measures clean and short-PGD accuracy on training images: the test split is for the end.

    Returns:
        The two rows; none where there is nothing to check.

    Raises:
        UserError: The teacher predicts at chance.
    """
    teacher, section, narrator = setup.teacher, setup.recipe.teacher, setup.context.narrator
    if teacher is None or section is None or not section.check:
        return []
    classes = setup.loaded.images.num_classes
    if teacher.num_classes != classes:
        narrator.note("teacher check: left out, only its representation is used")
        return []
    measurement = replace(setup.measurement, seed=0)  # one teacher, one answer, whatever the run
    clean, robust = rows = _short_rows(teacher, setup.loaded, setup.threat, measurement)
    published = setup.teacher_facts.published
    narrator.note(
        f"teacher check on {clean.count} training images: clean {clean.accuracy:.1%}, "
        f"{setup.threat} PGD-{STEPS} {robust.accuracy:.1%}{f' (published: {published})' if published else ''}"
    )
    if at_chance(clean, classes):
        raise UserError(
            "The teacher predicts at chance: wrong normalisation, or another order of labels?",
            received=f"{clean.accuracy:.1%} of {clean.count} images, {classes} classes",
            hint="--teacher-normalisation, or --skip-teacher-check to go on all the same",
        )
    if not _is_robust(rows):
        narrator.warn(
            f"the teacher is accurate but not robust at {setup.threat}; a student can inherit no robustness "
            "from it"
        )
    return rows


def quick_accuracy(
    source: TeacherSection, dataset: str, context: Context, *, allow_code: frozenset[str]
) -> dict[str, object]:
    """Measures a model as a run would before training, for ``inspect``.

    Returns:
        ``clean`` and ``robust`` accuracy in [0, 1], ``count``, ``threat``, and the ``verdict`` in words.

    Raises:
        UserError: The model or the data cannot be used, or the model has other classes.
    """
    known, data, model = load_with_data(source, dataset, context, allow_code=allow_code)
    norm = known.norm or "Linf"
    threat = ThreatModel(norm, known.eps_in(norm))
    measurement = Measurement(data.image_size, batch_size=64, seed=0, context=context)
    clean, robust = rows = _short_rows(model, data, threat, measurement)
    if at_chance(clean, data.images.num_classes):
        verdict = "predicts at chance: wrong normalisation or label order?"
    elif not _is_robust(rows):
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


def _short_rows(
    teacher: Teacher, data: LoadedData, threat: ThreatModel, measurement: Measurement
) -> list[Row]:
    """Returns the rows of clean and short-PGD accuracy on training images, or test images without those."""
    split = "train" if len(data.images.train) else "test"
    images = data.part(split).balanced(IMAGES)
    attack = measurement.pgd(threat, steps=STEPS)
    return measurement.rows(teacher, images, [attack], model="teacher", split=split)


def at_chance(clean: Row, classes: int) -> bool:
    """Tells whether an accuracy could be that of guessing: its interval reaches 1/classes."""
    return Proportion(clean.correct, clean.count).interval()[0] <= 1 / classes


def _is_robust(rows: Sequence[Row]) -> bool:
    clean, robust = rows
    return robust.accuracy >= ROBUST_SHARE * clean.accuracy


def teacher_figures(
    setup: Setup, images: ImageSet, attacks: Sequence[Attack], measure: Measure
) -> tuple[list[Row], dict[str, Any]]:
    """Returns a teacher's rows on the test images, and its timing as far as its source tells it.

    They are those that it comes with, else those of an earlier run, else measured now. A teacher with other
    classes than the data has no rows.

    Args:
        setup: Of a run with a teacher.
        images: That are measured on.
        attacks: PGD at the radii of interest.
        measure: Measures the teacher.
    """
    teacher, context = setup.teacher, setup.context
    if teacher is None:
        return [], {}
    rows, timing = _published(setup, teacher, images, attacks)
    if rows:
        context.narrator.note(f"teacher: test figures taken from the metrics that {teacher.name} comes with")
    elif teacher.num_classes == setup.loaded.images.num_classes:
        measurement = setup.measurement
        facts = {
            "rrm-transfer": __version__,
            "torch": torch.__version__,
            "device": context.runtime.device.type,
            "teacher": teacher.fingerprint(),
            "data": images.fingerprint,
            "fit": asdict(setup.loaded.fit),
            "attacks": [attack.key for attack in attacks],
            "batch_size": measurement.batch_size,
            "seed": measurement.seed,
        }
        rows = _kept_or_measured(facts, attacks, measure, context)
    return rows, timing


def _published(
    setup: Setup, teacher: Teacher, images: ImageSet, attacks: Sequence[Attack]
) -> tuple[list[Row], dict[str, Any]]:
    """Returns what the teacher's source says, its rows only if they are of these images and attacks."""
    source, section = setup.teacher_facts.metrics, setup.recipe.teacher
    if source is None or section is None or not section.is_itself:
        return [], {}
    known = read_metrics(source)
    timing = known.timing.get("student", {})
    # Images of another size reach the teacher through another view, which may cost it accuracy.
    if teacher.image_size != setup.loaded.image_size or known.data != images.fingerprint:
        return [], timing
    count = len(images)
    wanted: set[tuple[object, ...]] = {("test", "none", None, None, None, None, count)}
    for attack in attacks:
        ball = (None, None) if attack.threat is None else (attack.threat.norm, attack.threat.eps)
        wanted.add(("test", attack.name, *ball, attack.steps, attack.restarts, count))
    rows = [replace(row, model="teacher") for row in known.of("student") if row.measurement in wanted]
    return (rows if len(rows) == len(wanted) else []), timing


def _kept_or_measured(
    facts: Mapping[str, Any], attacks: Sequence[Attack], measure: Measure, context: Context
) -> list[Row]:
    """Returns the rows that an earlier run kept, if the teacher's clean accuracy is still theirs.

    Their key does not know the code that computes, so that much is measured in any case.
    """
    runtime, file = context.runtime, cache_folder() / "figures" / f"{key_of(facts)}.json"
    kept = runtime.from_main(_read(file) if runtime.is_main else [])
    if kept and measure([]) == kept[:1]:
        context.narrator.note("teacher: test figures are those of an earlier run")
        return list(kept)
    rows = measure(attacks)
    if runtime.is_main:
        Metrics(rows, conditions=dict(facts)).write(file)
    return rows


def _read(file: Path) -> list[Row]:
    try:
        return read_metrics(file).rows
    except UserError:
        return []
