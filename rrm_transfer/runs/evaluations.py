"""What was measured of a run after its end."""

from __future__ import annotations

from dataclasses import replace

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.printing import presentable
from rrm_transfer.evaluation.metrics import Metrics, read_metrics
from rrm_transfer.runs.folder import RunFolder

_STATE = ".state.json"
"""Ends the names of unfinished evaluations."""


def read_evaluations(folder: RunFolder, made: str) -> tuple[dict[str, Metrics], list[str]]:
    """Reads what was measured of a run after its end.

    Args:
        folder: Of the run.
        made: ``student`` or ``teacher``: what the run made.

    Returns:
        Metrics by file name, and the names of files that hold something else.
    """
    evaluations: dict[str, Metrics] = {}
    unreadable = []
    for path in sorted(folder.evaluations.glob("*.json")):
        if path.name.endswith(_STATE):
            continue
        try:
            found = read_metrics(path)
        except UserError:
            unreadable.append(presentable(path.name))
        else:
            evaluations[presentable(path.stem)] = _with_roles(found, made)
    return evaluations, unreadable


def _with_roles(metrics: Metrics, made: str) -> Metrics:
    """Names the network that the run made: an evaluation calls it the student."""

    def role(model: str) -> str:
        return model.replace("student", made, 1)

    return replace(
        metrics,
        rows=[replace(row, model=role(row.model)) for row in metrics.rows],
        corruptions=[replace(row, model=role(row.model)) for row in metrics.corruptions],
    )
