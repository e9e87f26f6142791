"""The abilities of the command line for Python: transfer, teach, evaluate, load_student."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from rrm_transfer.engine.evaluate_job import evaluate as _evaluate
from rrm_transfer.engine.job import run as _run
from rrm_transfer.engine.metrics import Metrics
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.engine.result import RunResult
from rrm_transfer.engine.run_folder import RunFolder
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.report.card import write_card
from rrm_transfer.report.page import refresh_report, write_report
from rrm_transfer.students.loading import load_student

__all__ = ["Recipe", "RunResult", "evaluate", "load_student", "read_recipe", "teach", "transfer"]

_Options = ParamSpec("_Options")


def transfer(
    recipe: Recipe,
    *,
    allow_code: bool = False,
    narrator: Narrator | None = None,
    overwrite: bool = False,
    resume: bool = False,
    resume_anyway: bool = False,
) -> RunResult:
    """Trains a student to inherit a teacher's robustness, measures it and exports it.

    Args:
        recipe: What to do; see ``read_recipe``.
        allow_code: Whether a teacher's ``package.module:factory`` may be imported and called.
        narrator: Says what happens; None: nobody.
        overwrite: Replaces a run that stands in the output folder.
        resume: Continues the run that stands there; starts where there is none, and gives the result of one
            that is finished.
        resume_anyway: As ``resume``, also where what a run can go on with has changed.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    return _run(
        recipe,
        publish=_publish,
        allow_code=allow_code,
        narrator=narrator,
        overwrite=overwrite,
        resume=resume,
        resume_anyway=resume_anyway,
    )


def teach(
    recipe: Recipe,
    *,
    narrator: Narrator | None = None,
    overwrite: bool = False,
    resume: bool = False,
    resume_anyway: bool = False,
) -> RunResult:
    """Trains a robust teacher from scratch; its run folder is a teacher for ``transfer``.

    Args:
        recipe: With an objective that needs no teacher.
        narrator: Says what happens; None: nobody.
        overwrite: Replaces a run that stands in the output folder.
        resume: Continues the run that stands there; starts where there is none, and gives the result of one
            that is finished.
        resume_anyway: As ``resume``, also where what a run can go on with has changed.

    Raises:
        UserError: The recipe cannot be run as it is.
        Interrupted: The run was asked to stop; ``resume`` continues it.
    """
    return _run(
        recipe,
        role="teacher",
        publish=_publish,
        narrator=narrator,
        overwrite=overwrite,
        resume=resume,
        resume_anyway=resume_anyway,
    )


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
                refresh_report(folder)
        return metrics, written

    return evaluate


evaluate = _reporting(_evaluate)


def _publish(result: RunResult) -> None:
    folder = RunFolder(result.folder)
    write_card(result, folder.card)
    write_report(folder, result.metrics)
