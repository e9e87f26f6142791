"""The abilities of the command line for Python, and the parts that a loop of one's own needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypedDict, Unpack

from rrm_transfer import __version__
from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub_repository import HubRepository
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.costs.bench import bench
from rrm_transfer.costs.estimate import CostReport
from rrm_transfer.costs.preview import Preview, preview
from rrm_transfer.evaluation.metrics import Metrics
from rrm_transfer.exports.formats import Exported, export
from rrm_transfer.objectives.base import Objective
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.recipe.shelf import QUICKSTART, TEACHING
from rrm_transfer.report.card import write_card
from rrm_transfer.report.page import write_report
from rrm_transfer.report.publication import publication
from rrm_transfer.runs.evaluate import evaluate as _evaluate
from rrm_transfer.runs.finished import FinishedRun, read_finished
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.request import code_named_by, request
from rrm_transfer.runs.run import run as _run
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.loading import load_student
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import build_student
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.training.timm_task import RRMTask

__all__ = [
    "CostReport",
    "Exported",
    "FinishedRun",
    "Objective",
    "Preview",
    "Pushed",
    "RRMTask",
    "Recipe",
    "ThreatModel",
    "bench",
    "build_student",
    "evaluate",
    "export",
    "load_student",
    "load_teacher",
    "pgd",
    "preview",
    "push",
    "read_recipe",
    "save_student",
    "teach",
    "transfer",
]

_Options = ParamSpec("_Options")


@dataclass(frozen=True)
class Pushed:
    """What of a run is on a hub.

    Attributes:
        repo: ``user/name``.
        files: Paths in the repository.
        address: Of the repository or of the pull request; None where nothing was pushed.
    """

    repo: str
    files: tuple[str, ...]
    address: str | None


class RunOptions(TypedDict, total=False):
    """How ``transfer`` and ``teach`` do what they are asked for.

    Attributes:
        allow_code: Each ``package.module:factory`` that may be imported and called, as it is named.
        narrator: Says what happens; None: nobody.
        overwrite: Replaces a run that stands in the output folder.
        resume: Continues the run that stands there; starts where there is none, and gives the result of one
            that is finished.
        resume_anyway: As ``resume``, also where what a run can go on with has changed.
        tracker: ``tensorboard``, ``wandb`` or another that accelerate has; None: nobody is told.
    """

    allow_code: frozenset[str]
    narrator: Narrator | None
    overwrite: bool
    resume: bool
    resume_anyway: bool
    tracker: str | None


def transfer(
    recipe: Recipe | None = None,
    *,
    teacher: str | Path | None = None,
    student: str | None = None,
    student_weights: str | Path | None = None,
    dataset: str | Path | None = None,
    objective: str | None = None,
    epochs: int | None = None,
    output: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    **options: Unpack[RunOptions],
) -> FinishedRun:
    """Trains a student to inherit a teacher's robustness, measures it and exports it.

    The same words make the same run as on the command line, ``rrm-transfer run``; without any it is the
    quickstart.

    Args:
        recipe: Is taken whole, and what else is named changes it.
        teacher: A zoo name, a timm or ``hf-hub:`` name, a weights file, or a run folder.
        student: A timm architecture, or the beginning of its name.
        student_weights: A clean network of that architecture to start from: a weights file, or a folder as
            this package or timm save it.
        dataset: As ``--dataset`` takes it; None: what the teacher was trained on.
        objective: What is minimised, such as ``rrm``.
        epochs: Passes over the training images.
        output: The run folder; None: a new one under ``runs``.
        settings: Any others by their path in a recipe, such as ``{"train.lr": 0.05}``; they win.
        options: See ``RunOptions``.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    name = None if teacher is None else str(teacher)
    wanted = request(
        recipe,
        base=QUICKSTART,
        overrides=settings or {},
        sections={
            "teacher": {"name": name},
            **_sections(student, dataset, objective, epochs, student_weights),
        },
        output=output,
    )
    options["allow_code"] = options.get("allow_code", frozenset()) | code_named_by(name)
    return _run(wanted, publish=_tell, **options)


def teach(
    recipe: Recipe | None = None,
    *,
    student: str | None = None,
    dataset: str | Path | None = None,
    objective: str | None = None,
    epochs: int | None = None,
    output: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    **options: Unpack[RunOptions],
) -> FinishedRun:
    """Trains a robust teacher from scratch; its run folder is a teacher for ``transfer``.

    The same words make the same run as ``rrm-transfer teach``.

    Args:
        recipe: With an objective that needs no teacher.
        student: The network.
        dataset: None: the recipe's.
        objective: One that needs no teacher, such as ``pgd-at``.
        epochs: Passes over the training images.
        output: The run folder; None: a new one under ``runs``.
        settings: Any others by their path in a recipe.
        options: See ``RunOptions``.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    wanted = request(
        recipe,
        base=TEACHING,
        overrides=settings or {},
        sections=_sections(student, dataset, objective, epochs),
        output=output,
    )
    return _run(wanted, is_teacher=True, publish=_tell, **options)


def _sections(
    student: str | None,
    dataset: str | Path | None,
    objective: str | None,
    epochs: int | None,
    student_weights: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    return {
        "student": {
            "name": student,
            "start": None if student_weights is None else "pretrained",
            "weights": student_weights,
        },
        "data": {"name": None if dataset is None else str(dataset)},
        "objective": {"name": objective},
        "train": {"epochs": epochs},
    }


def push(
    run: str | Path, repo: str, *, private: bool = False, create_pr: bool = False, dry_run: bool = False
) -> Pushed:
    """Pushes a finished run to a model hub: stock timm folder, model card, report and recipe.

    Args:
        run: Its folder, or ``student-best`` in it.
        repo: ``user/name``; created where it is missing.
        private: Of a repository that is created.
        create_pr: Propose the files in a pull request.
        dry_run: Only tell what would be pushed; the hub is not asked.

    Raises:
        UserError: There is no finished run, or the hub does not take it.
    """
    repository = HubRepository(repo)
    files = publication(Path(run), repository)
    address = None
    if not dry_run:
        if create_pr:
            repository.require_read_access()
        else:
            repository.require_write_access(private=private)
        message = f"Made with rrm-transfer {__version__}"
        address = repository.commit(files, message=message, create_pr=create_pr)
    return Pushed(repo, tuple(sorted(files)), address)


def _reporting(
    measure: Callable[_Options, tuple[Metrics, Path | None]],
) -> Callable[_Options, tuple[Metrics, Path | None]]:
    """Has an evaluation that is written to a finished run's folder enter the run's report."""

    @wraps(measure)
    def evaluate(*args: _Options.args, **options: _Options.kwargs) -> tuple[Metrics, Path | None]:
        metrics, written = measure(*args, **options)
        if written is not None:
            folder = RunFolder(written.parent.parent)
            if written.parent == folder.evaluations and folder.is_finished:
                try:
                    _tell(read_finished(folder.path))
                except UserError as problem:  # what was measured stands nevertheless
                    narrator = options.get("narrator")
                    if isinstance(narrator, Narrator):
                        narrator.warn(f"the report stays as it was. {problem}")
        return metrics, written

    return evaluate


evaluate = _reporting(_evaluate)


def _tell(run: FinishedRun) -> None:
    write_card(run)
    write_report(run)
