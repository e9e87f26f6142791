"""The networks that a run trained or used, with their figures and what their training cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rrm_transfer.evaluation.metrics import BEST, Metrics, Model, Row
from rrm_transfer.objectives import PLAIN
from rrm_transfer.report.settings import (
    Setting,
    control_setting,
    costly_differences,
    setting_of,
    teacher_setting,
)
from rrm_transfer.runs.evaluate import WORST
from rrm_transfer.runs.finished import FinishedRun


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
        seconds: Of its training.
        teacher_seconds: Of its teacher's training.
        ratio: Of its training to plain training.
    """

    run: FinishedRun
    model: Model
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
        return self.model != "teacher" and self.setting["objective.name"] == PLAIN


def entries_of(run: FinishedRun) -> list[Entry]:
    """Returns a run's student with its last and its best weights, its control and its teacher."""
    setting, plain = setting_of(run.recipe), control_setting(run.recipe)
    seconds, of_teacher = run.seconds("student"), run.seconds("teacher")
    entries = [
        Entry(run, "student", setting, _figures(run, "student"), seconds, of_teacher),
        Entry(run, BEST, setting, _figures(run, BEST), seconds, of_teacher),
        Entry(run, "control", plain, _figures(run, "control"), run.seconds("control")),
    ]
    if run.recipe.teacher is not None:
        teacher = teacher_setting(run.recipe)
        entries.append(Entry(run, "teacher", teacher, _figures(run, "teacher"), of_teacher))
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


def with_ratios(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """Returns the entries with their cost in units of plain training.

    Args:
        entries: Of all runs that are compared.
        notes: Gets what a reader must know about a ratio, or why there is none.
    """
    plain_runs = [entry for entry in entries if entry.is_plain and entry.model == "student"]
    return [replace(entry, ratio=_ratio(entry, plain_runs, notes)) for entry in entries]


def _ratio(entry: Entry, plain_runs: Sequence[Entry], notes: list[str]) -> float | None:
    """Divides by the control's time in the same run, else by that of plain training of the same student."""
    if entry.model == "teacher" or entry.seconds is None:
        return None
    if entry.is_plain:
        return 1.0
    control = entry.run.seconds("control")
    if control:
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
