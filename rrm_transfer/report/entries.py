"""The networks that a run trained or used, with their figures and what their training cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rrm_transfer.evaluation.metrics import BEST, Metrics, Model, Row
from rrm_transfer.objectives import PLAIN
from rrm_transfer.report.settings import Setting, control_setting, setting_of, teacher_setting
from rrm_transfer.runs.evaluate import WORST
from rrm_transfer.runs.finished import FinishedRun
from rrm_transfer.runs.spent import Spent


@dataclass(frozen=True)
class Column:
    """One measurement: two figures of the same column are comparable.

    Attributes:
        title: Ball and attack: ``clean``, ``Linf 8/255 pgd-20``.
        attack: ``none``, ``pgd``, …
        norm: None for attack ``none``.
        eps: In pixel units; None for attack ``none``.
        count: Images.
        data: Their fingerprint.
    """

    title: str
    attack: str
    norm: str | None
    eps: float | None
    count: int
    data: str | None


@dataclass(frozen=True)
class Entry:
    """One trained network.

    Attributes:
        run: That trained it, or that used it as its teacher.
        model: Which of the run's networks.
        setting: What it is.
        figures: What was measured.
        spent: On its training.
        teacher: On its teacher's training; None where it has none.
    """

    run: FinishedRun
    model: Model
    setting: Setting
    figures: Mapping[Column, Row]
    spent: Spent
    teacher: Spent | None = None

    @property
    def seed(self) -> int:
        return self.run.recipe.seed

    @property
    def is_plain(self) -> bool:
        return self.model != "teacher" and self.setting["objective.name"] == PLAIN


def entries_of(run: FinishedRun) -> list[Entry]:
    """Returns a run's student with its last and its best weights, its control and its teacher."""
    setting, plain = setting_of(run.recipe), control_setting(run.recipe)
    spent, teacher = run.spent("student"), None if run.recipe.teacher is None else run.spent("teacher")
    entries = [
        Entry(run, "student", setting, _figures(run, "student"), spent, teacher),
        Entry(run, BEST, setting, _figures(run, BEST), spent, teacher),
        Entry(run, "control", plain, _figures(run, "control"), run.spent("control")),
    ]
    if teacher is not None:
        entries.append(Entry(run, "teacher", teacher_setting(run.recipe), _figures(run, "teacher"), teacher))
    return [entry for entry in entries if entry.figures]


def _figures(run: FinishedRun, model: Model) -> dict[Column, Row]:
    figures: dict[Column, Row] = {}
    for metrics in (run.metrics, *run.evaluations.values()):
        for row in metrics.rows:
            if row.model == model and row.split == "test":
                figures.setdefault(_column(row, metrics), row)
    return figures


def _column(row: Row, metrics: Metrics) -> Column:
    title = row.title
    if row.attack == WORST:
        tried = [str(name) for name in (metrics.conditions.get("attacks") or ()) if name != "none"]
        effort = [f"{key} {value}" for key in ("steps", "restarts") if (value := metrics.conditions.get(key))]
        title += f" of {', '.join([*tried, *effort])}"
    if "transfer" in title and (surrogate := metrics.conditions.get("surrogate")):
        title += f" from {surrogate[:7]}"
    return Column(title, row.attack, row.norm, row.eps, row.count, metrics.data)
