"""The abilities of the command line for Python, from ``transfer`` to ``push`` and ``bench``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypedDict, Unpack

from rrm_transfer import __version__
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub_repository import HubRepository
from rrm_transfer.costs.bench import bench
from rrm_transfer.costs.estimate import CostReport
from rrm_transfer.costs.preview import Preview, preview
from rrm_transfer.evaluation.metrics import Metrics
from rrm_transfer.exports.formats import Exported, export
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.report.card import write_card
from rrm_transfer.report.page import write_report
from rrm_transfer.report.publication import publication
from rrm_transfer.runs.evaluate import evaluate as _evaluate
from rrm_transfer.runs.finished import FinishedRun, read_finished
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.run import run as _run
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.loading import load_student
from rrm_transfer.training.timm_task import RRMTask

__all__ = [
    "CostReport",
    "Exported",
    "FinishedRun",
    "Preview",
    "Pushed",
    "RRMTask",
    "Recipe",
    "bench",
    "evaluate",
    "export",
    "load_student",
    "preview",
    "push",
    "read_recipe",
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
    """What ``transfer`` and ``teach`` take beside a recipe.

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


def transfer(recipe: Recipe, **options: Unpack[RunOptions]) -> FinishedRun:
    """Trains a student to inherit a teacher's robustness, measures it and exports it.

    Args:
        recipe: What to do; see ``read_recipe``.
        options: See ``RunOptions``.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    return _run(recipe, publish=_tell, **options)


def teach(recipe: Recipe, **options: Unpack[RunOptions]) -> FinishedRun:
    """Trains a robust teacher from scratch; its run folder is a teacher for ``transfer``.

    Args:
        recipe: With an objective that needs no teacher.
        options: See ``RunOptions``.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    return _run(recipe, is_teacher=True, publish=_tell, **options)


def push(
    run: str | Path, repo: str, *, private: bool = False, create_pr: bool = False, dry_run: bool = False
) -> Pushed:
    """Pushes a finished run to a model hub: stock timm folder, model card, report and recipe.

    Args:
        run: Its folder.
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
