"""What a run made, as it ends and as its folder tells it later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrm_transfer.evaluation.metrics import Metrics, read_metrics
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.products import load_line, recorded_provenance
from rrm_transfer.runs.trainables import TrainablePlan


@dataclass(frozen=True)
class RunResult:
    """What a run made.

    Attributes:
        folder: The run folder.
        metrics: Contents of metrics.json.
        recipe: Resolved.
        provenance: How the student was made: teacher, objective, threat model, data.
        load_line: Python that loads the student.
        best: Which weights ``student-best/`` has; None where there was no selection.
    """

    folder: Path
    metrics: Metrics
    recipe: Recipe
    provenance: dict[str, Any]
    load_line: str
    best: dict[str, Any] | None = None


def recorded_result(folder: RunFolder, recipe: Recipe, student: TrainablePlan) -> RunResult:
    """Returns what the finished run in ``folder`` made."""
    made = recorded_provenance(folder.student)
    best = recorded_provenance(folder.best)["weights"] if folder.best.is_dir() else None
    line = load_line(student, folder)
    return RunResult(folder.path, read_metrics(folder.metrics), recipe, made, line, best)
