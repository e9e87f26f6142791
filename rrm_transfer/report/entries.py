"""The networks that a run trained or used, with their figures and what their training cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rrm_transfer.core.quantities import format_eps
from rrm_transfer.evaluation.metrics import Metrics, Row, best_of
from rrm_transfer.objectives import PLAIN
from rrm_transfer.report.settings import (
    Setting,
    control_setting,
    costly_differences,
    setting_of,
    teacher_setting,
)
from rrm_transfer.report.table import attack_title
from rrm_transfer.runs.evaluate import WORST
from rrm_transfer.runs.runs import Run


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
        role: ``made`` by the run, its ``control``, or its ``teacher``.
        best: Whether a held-out split selected its weights.
        setting: What it is.
        figures: What was measured.
        seconds: Of its training.
        teacher_seconds: Of its teacher's training.
        ratio: Of its training to plain training.
    """

    run: Run
    role: Literal["made", "control", "teacher"]
    best: bool
    setting: Setting
    figures: Mapping[Column, Row]
    seconds: float | None
    teacher_seconds: float | None = None
    ratio: float | None = None

    @property
    def seed(self) -> int:
        return self.run.recipe.seed

    @property
    def is_plain(self) -> bool:
        return self.role != "teacher" and self.setting["objective.name"] == PLAIN


def entries_of(run: Run) -> list[Entry]:
    """Returns a run's own network with its last and its best weights, its control and its teacher."""
    made, setting, plain = run.made, setting_of(run.recipe), control_setting(run.recipe)
    teacher_seconds = run.seconds("teacher") if made == "student" else None
    entries = [
        Entry(run, "made", False, setting, _figures(run, made), run.seconds(made), teacher_seconds),
        Entry(run, "made", True, setting, _figures(run, best_of(made)), run.seconds(made), teacher_seconds),
        Entry(run, "control", False, plain, _figures(run, "control"), run.seconds("control")),
    ]
    if made == "student" and run.recipe.teacher is not None:
        teacher = teacher_setting(run.recipe)
        entries.append(Entry(run, "teacher", False, teacher, _figures(run, "teacher"), teacher_seconds))
    return [entry for entry in entries if entry.figures]


def _figures(run: Run, model: str) -> dict[Column, Row]:
    figures: dict[Column, Row] = {}
    for metrics in (run.metrics, *run.evaluations):
        for row in metrics.rows:
            if row.model == model and row.split == "test":
                figures.setdefault(_column(row, metrics), row)
    return figures


def _column(row: Row, metrics: Metrics) -> Column:
    title = "clean"
    if row.eps is not None:
        title = f"{row.norm} {format_eps(row.eps)} {attack_title(row)}"
    if row.attack == WORST:
        tried = [name for name in metrics.conditions.get("attacks", ()) if name != "none"]
        effort = [f"{key} {value}" for key in ("steps", "restarts") if (value := metrics.conditions.get(key))]
        title += f" of {', '.join([*tried, *effort])}"
    if "transfer" in title and (surrogate := metrics.conditions.get("surrogate")):
        title += f" from {surrogate[:7]}"
    return Column(title, row.attack, row.norm, row.eps, row.count, metrics.data)


def with_ratios(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """Returns the entries with their cost in units of plain training.

    Args:
        entries: Of all runs that are compared.
        notes: Gets what a reader must know about a ratio, or why there is none.
    """
    plain_runs = [entry for entry in entries if entry.is_plain and entry.role == "made" and not entry.best]
    return [replace(entry, ratio=_ratio(entry, plain_runs, notes)) for entry in entries]


def _ratio(entry: Entry, plain_runs: Sequence[Entry], notes: list[str]) -> float | None:
    """Divides by the control's time in the same run, else by that of plain training of the same student."""
    if entry.role == "teacher" or entry.seconds is None:
        return None
    if entry.is_plain:
        return 1.0
    control = entry.run.seconds("control")
    if control is not None:
        _tell_differences(entry, control_setting(entry.run.recipe), "its control", notes)
        return entry.seconds / control
    same = [other for other in plain_runs if _student(other) == _student(entry)]
    beside = [other for other in same if other.run.machine == entry.run.machine and other.seconds]
    if not beside:
        if same:
            notes.append(
                f"{entry.run.folder}: no ratio to plain training, which ran on {same[0].run.machine}, "
                f"and this on {entry.run.machine}"
            )
        return None

    def distance(other: Entry) -> tuple[int, bool]:
        return len(costly_differences(other.setting, entry.setting)), other.seed != entry.seed

    plain = min(beside, key=distance)
    _tell_differences(entry, plain.setting, str(plain.run.folder), notes)
    return entry.seconds / plain.seconds if plain.seconds else None


def _tell_differences(entry: Entry, plain: Setting, name: str, notes: list[str]) -> None:
    differing = [
        f"{key} ({plain.get(key)}, not {entry.setting.get(key)})"
        for key in costly_differences(plain, entry.setting)
    ]
    if differing:
        notes.append(
            f"{entry.run.folder}: its cost is divided by that of {name}, "
            f"which differs in {', '.join(differing)}"
        )


def _student(entry: Entry) -> object:
    recipe = entry.run.recipe
    return recipe.student.name, recipe.student.args, recipe.data.name, recipe.data.image_size
