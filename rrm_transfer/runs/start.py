"""Where a student starts: from which weights, and with what behind its representation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.data.mixing import shuffled
from rrm_transfer.objectives.base import Objective
from rrm_transfer.recipe.defaults import TrainingDefaults
from rrm_transfer.recipe.schema import AUTO, Recipe, StudentSection
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.trainables import Trainable
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.pretrained import StartingWeights, require_hub_weights, starting_weights
from rrm_transfer.students.ridge import LinearMap, ridge
from rrm_transfer.students.student import Student
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.training.step import infer

Start = Literal["scratch", "pretrained", "teacher"]
HeadStart = Literal["own", "teacher", "ridge"]

EVENT = "head"
"""Of the log."""
_SAMPLE = 64
_SAME = 1e-3


def choose_start(
    recipe: Recipe,
    row: TrainingDefaults,
    teacher: Teacher | None,
    recorded: Recipe | None,
    narrator: Narrator,
) -> Start:
    """Tells which weights the student starts from; only a user's wish must be fulfilled.

    Args:
        recipe: With an exact student name.
        row: Of the table.
        teacher: Of the objective.
        recorded: The recipe of the run that is to go on.
        narrator: Is told where what the table says cannot be had.

    Raises:
        UserError: There is no teacher whose weights could be taken.
    """
    section = recipe.student
    asked = section.start if section.start != AUTO or recorded is None else recorded.student.start
    if asked == "teacher" and teacher is None:
        raise UserError(
            "The student is to start from the teacher's weights, and this objective has no teacher.",
            received=f"student.start=teacher with {recipe.objective.name}",
            hint="student.weights takes the teacher's file or folder",
        )
    if asked != AUTO:
        return asked
    if section.weights is not None:
        return "pretrained"
    if not row.pretrained:
        return "scratch"
    try:
        require_hub_weights(section.name)
    except UserError as error:
        narrator.warn(
            f"a transformer does better from timm's weights; this one starts from scratch: {error.what}"
        )
        return "scratch"
    return "pretrained"


def weights_of(section: StudentSection, start: Start, teacher: Teacher | None) -> StartingWeights | None:
    """Returns the weights that a student starts from, where they are another network's.

    Raises:
        UserError: There are none, or they are another architecture's.
    """
    if start == "teacher" and teacher is not None:
        return StartingWeights(
            f"the teacher {teacher.name}",
            teacher.named_tensors,
            exact=True,
            statistics=teacher.normalize.statistics,
        )
    return None if section.weights is None else starting_weights(section.weights, section.name)


def choose_head(
    recipe: Recipe, start: Start, objective: Objective, teacher: Teacher | None, recorded: Recipe | None
) -> HeadStart:
    """Tells what stands behind the student's representation at first.

    From scratch that is the student's own, unless the objective borrows the teacher's classifier.

    Args:
        recipe: With what is asked for.
        start: From ``choose_start``.
        objective: That will be minimised.
        teacher: Of the objective.
        recorded: The recipe of the run that is to go on.

    Raises:
        UserError: What is asked for is not to be had.
    """
    section = recipe.student
    asked = section.head if section.head != AUTO or recorded is None else recorded.student.head
    if asked == AUTO:
        if teacher is None:
            return "own"
        if start == "teacher" and section.projection == "auto":
            return "teacher"
        if start != "scratch":
            return "ridge"
        borrowed = objective.borrows_classifier and teacher.classifier() is not None
        return "teacher" if borrowed else "own"
    if asked != "own" and teacher is None:
        raise UserError(
            "What stands behind the student's representation is to come from a teacher, and this objective "
            "has none.",
            received=f"student.head={asked} with {recipe.objective.name}",
            hint="--set student.head=auto",
        )
    if asked == "ridge" and start == "scratch":
        # Untrained batch norms have no statistics of the images: in evaluation mode, in which the projection
        # is solved, the representation is a hundred times shorter than in the first training step.
        raise UserError(
            "A projection is solved from a representation that was learned, and this student has none yet.",
            received="student.head=ridge with student.start=scratch",
            allowed="student.head: auto, own or teacher",
            hint="--set student.head=auto, or weights to start from: --student-weights FILE",
        )
    if asked == "teacher" and teacher is not None and teacher.classifier() is None:
        raise UserError(
            "The student cannot start with the teacher's classifier, which is not one linear layer.",
            received=teacher.name,
            hint="--set student.head=own",
        )
    return asked


def check_head(head: HeadStart, objective: Objective) -> None:
    """Checks that a classifier that is to stay the teacher's starts as it.

    Raises:
        UserError: It does not.
    """
    if head == "own" and "frozen_classifier" in objective.needs:
        raise UserError(
            "The objective keeps the teacher's classifier, and the student is to start with its own.",
            received="student.head=own",
            allowed="student.head: auto, teacher or ridge",
            hint="leave student.head out, or have a term train the classifier: objective.ce_weight=0.005",
        )


def begin(student: Trainable, setup: Setup) -> dict[str, Any]:
    """Solves what the student is to start with, and says where it starts.

    A projection is solved from the student's representation of clean training images to the teacher's, on the
    main process, which gives it to the others.

    Args:
        student: With its initial weights.
        setup: Of the run.

    Returns:
        ``images``, ``penalty``, ``explained`` (see ``ridge``) and ``seconds``; nothing where none was solved.
    """
    teacher, section = setup.teacher, setup.recipe.student
    if not isinstance(student, Student) or teacher is None:
        return {}
    if section.start == "teacher":
        _tell_whether_same(student, teacher, setup)
    if section.head != "ridge":
        return {}
    begun, runtime = time.monotonic(), setup.context.runtime
    found = runtime.on_main(lambda: _solve(student, teacher, setup))
    student.head.set_projection(found.weight, found.bias)
    setup.context.narrator.note(
        f"student: projection solved on {setup.solved_images:,} training images; it explains "
        f"{found.explained:.0%} of the teacher's representation of others"
    )
    return {
        "images": setup.solved_images,
        "penalty": found.penalty,
        "explained": round(found.explained, 4),
        "seconds": round(time.monotonic() - begun, 3),
    }


def _solve(student: Student, teacher: Teacher, setup: Setup) -> LinearMap:
    pairs = [
        (student.represent(x).cpu(), infer(teacher, x).features.cpu())
        for x in _images(student, teacher, setup, setup.solved_images)
    ]
    z, target = map(torch.cat, zip(*pairs, strict=True))
    return ridge(z, target)


def _images(student: Student, teacher: Teacher, setup: Setup, count: int) -> Iterator[Tensor]:
    """Yields clean training images, drawn by the seed; both networks are in evaluation mode meanwhile."""
    train, device = setup.loaded.images.train, setup.context.runtime.device
    drawn = shuffled(len(train), setup.recipe.seed, 0, "head")[:count]
    teacher.to(device)
    training = student.training
    student.to(device).eval()
    try:
        batches = evaluation_batches(
            train.select(drawn),
            fit=choose_fit(train.size, setup.loaded.image_size),
            batch_size=setup.recipe.evaluate.batch_size,
            device=device,
            workers=setup.recipe.data.workers,
            substitute=True,
        )
        for batch in batches:
            yield batch.x
    finally:
        student.train(training).cpu()


def _tell_whether_same(student: Student, teacher: Teacher, setup: Setup) -> None:
    """Says whether a student with the teacher's weights computes what the teacher does."""
    narrator = setup.context.narrator
    for x in _images(student, teacher, setup, _SAMPLE):
        own, target = infer(student, x).features, infer(teacher, x).features
        if own.shape == target.shape and (own - target).norm() <= _SAME * target.norm():
            narrator.note("student: starts as the teacher, with the same answers")
        else:
            narrator.warn(
                "the student has the teacher's weights and answers otherwise: it has other arguments "
                "(--student-arg) or sees images of another size"
            )


def with_start(timing: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Counts what was solved before training, if anything, as training of the student."""
    if not found:
        return timing
    return {**timing, "train_seconds": timing["train_seconds"] + found["seconds"], EVENT: found}
