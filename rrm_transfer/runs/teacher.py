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
from rrm_transfer.runs.models import LoadedData
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.spent import Spent
from rrm_transfer.runs.standing import Standing
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.teacher import Teacher

IMAGES = 256
STEPS = 5

Measure = Callable[[Sequence[Attack]], list[Row]]
"""Returns the row of clean accuracy, then one for each attack."""


def check_teacher(setup: Setup) -> list[Row]:
    """Measures clean and short-PGD accuracy on training images: the test split is for the end.

    Returns:
        The rows of clean accuracy and of that at eps; none where there is nothing to check.

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
    known, threat = setup.teacher_facts, setup.threat
    clean, near, far = short_rows(teacher, setup.loaded, threat, measurement)
    said = f" (published: {known.published})" if known.published else ""
    narrator.note(
        f"teacher check on {clean.count} training images: clean {clean.accuracy:.1%}, "
        f"{near.ball} PGD-{STEPS} {near.accuracy:.1%}{said}, {far.ball} {far.accuracy:.1%}"
    )
    if at_chance(clean, classes):
        raise UserError(
            "The teacher predicts at chance: wrong normalization, or another order of labels?",
            received=f"{clean.accuracy:.1%} of {clean.count} images, {classes} classes",
            hint="--teacher-normalization, or --skip-teacher-check to go on all the same",
        )
    standing = Standing(clean, near, far, known.stated_share(setup.loaded.section, threat))
    if standing.grade != "robust":
        narrator.warn(
            f"the teacher is accurate but {_IN_WORDS[standing.grade]} at {threat}: {standing}; "
            + _consequence(standing, attacks=setup.objective.attacks)
        )
    return [clean, near]


_IN_WORDS = {"robust": "robust", "weak": "only weakly robust", "not robust": "not robust"}


def _consequence(standing: Standing, *, attacks: bool) -> str:
    """Says what a teacher that is not robust means for a student."""
    if attacks:
        # FARE makes CLIP robust with the clean features of the undefended CLIP as targets: Schlarmann et al.,
        # "Robust CLIP", ICML 2024, arXiv 2402.12336.
        return "robustness must come from the objective's own attack, with the teacher's answers as targets"
    if standing.grade == "weak":
        return "matching it on images that nobody attacks, expect a student that is no more robust"
    return "on images that nobody attacks a student can inherit no robustness from it"


def short_rows(
    teacher: Teacher, data: LoadedData, threat: ThreatModel, measurement: Measurement
) -> list[Row]:
    """Returns the rows of clean accuracy, and under short PGD at eps and at 2 eps."""
    split, images = images_to_check(data)
    radii = (threat, replace(threat, eps=2 * threat.eps))
    attacks = [measurement.pgd(radius, steps=STEPS) for radius in radii]
    return measurement.rows(teacher, images, attacks, model="teacher", split=split)


def images_to_check(data: LoadedData) -> tuple[str, ImageSet]:
    """Returns the training images to check on, or test images without those."""
    split = "train" if len(data.images.train) else "test"
    return split, data.part(split).balanced(IMAGES)


def at_chance(clean: Row, classes: int) -> bool:
    """Tells whether an accuracy could be that of guessing: its interval reaches 1/classes."""
    return Proportion(clean.correct, clean.count).interval()[0] <= 1 / classes


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


def _own_metrics(setup: Setup) -> Metrics | None:
    """Returns what the teacher's own run or the package says about it; None where nothing does."""
    source, section = setup.teacher_facts.metrics, setup.recipe.teacher
    return read_metrics(source) if source is not None and section is not None and section.is_itself else None


def teacher_spent(setup: Setup) -> Spent | None:
    """Returns what the teacher's own training took, as far as its source tells it; None without a teacher."""
    known = _own_metrics(setup)
    if setup.teacher is None:
        return None
    return Spent() if known is None else Spent.of(known.timing.get("student") or {})


def _published(
    setup: Setup, teacher: Teacher, images: ImageSet, attacks: Sequence[Attack]
) -> tuple[list[Row], dict[str, Any]]:
    """Returns what the teacher's source says, its rows only if they are of these images and attacks."""
    known = _own_metrics(setup)
    if known is None:
        return [], {}
    timing = known.timing.get("student") or {}
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
