"""Many runs in one table: accuracies, costs, and their spread over seeds."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import public_name
from rrm_transfer.core.quantities import format_eps
from rrm_transfer.engine.evaluate_job import WORST
from rrm_transfer.engine.metrics import Metrics, Row, best_of
from rrm_transfer.objectives import objective_arguments
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.report.runs import LeftOut, Run, read_runs
from rrm_transfer.report.table import attack_title

_OF_A_RUN = ("name", "description", "seed", "output", "control", "evaluate")
_OPERATION = (
    "train.checkpoint_every", "train.log_every", "train.channels_last", "data.workers", "teacher.check",
    "teacher.cache.seed",
)  # fmt: skip
"""Recipe keys that do not change what is trained."""

Setting = dict[str, object]
"""A recipe's dotted keys that define what is trained, apart from the seed."""


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
class Spread:
    """Values over several runs; the deviation is the sample's, None for one run."""

    mean: float
    deviation: float | None


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
        return self.role != "teacher" and self.setting["objective.name"] == "natural"


@dataclass(frozen=True)
class Line:
    """A setting with its runs, one for each seed.

    Attributes:
        method: The objective, the arguments that are not its defaults, and what else tells it from others.
        student: The architecture.
        entries: One or more.
    """

    method: str
    student: str
    entries: list[Entry]

    @property
    def folders(self) -> list[Path]:
        return [entry.run.folder for entry in self.entries]

    @property
    def seeds(self) -> list[int]:
        return [entry.seed for entry in self.entries]

    @property
    def role(self) -> str:
        return self.entries[0].role

    @property
    def best(self) -> bool:
        return self.entries[0].best

    @property
    def epochs(self) -> object:
        return self.entries[0].setting.get("train.epochs")

    def rows(self, column: Column) -> list[Row]:
        return [entry.figures[column] for entry in self.entries if column in entry.figures]

    def accuracy(self, column: Column) -> Spread | None:
        return _spread([row.accuracy for row in self.rows(column)])

    def cost(self, name: Literal["seconds", "teacher_seconds", "ratio"]) -> Spread | None:
        values = [getattr(entry, name) for entry in self.entries]
        return _spread([value for value in values if value is not None])


@dataclass(frozen=True)
class Comparison:
    """The table.

    Attributes:
        columns: Measurements: clean ones first, then by norm, eps and attack.
        lines: Teachers first, then by student, plain training before what it is compared with.
        left_out: What could not be read.
        notes: What cannot be compared, in words.
    """

    columns: list[Column]
    lines: list[Line]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(paths: Iterable[Path]) -> Comparison:
    """Compares runs.

    Args:
        paths: Run folders, or folders that hold run folders.

    Raises:
        UserError: A path is no run folder, or no run is finished.
    """
    runs, left_out = read_runs(paths)
    if not runs:
        raise UserError(
            "No run can be compared.\n" + "\n".join(f"  {folder}: {why}" for folder, why in left_out)
        )
    notes: list[str] = []
    entries = _with_ratios([entry for run in runs for entry in _entries(run)], notes)
    lines = _lines(entries, notes)
    notes += _other_images(runs) + _shared_caches(runs)
    return Comparison(_columns(lines), lines, left_out, notes)


def _shared_caches(runs: Sequence[Run]) -> list[str]:
    """Says which costs are without the teacher's answers, because another run had paid for them."""
    facts = [run.metrics.timing.get(run.made, {}).get("teacher_features", {}) for run in runs]
    shared = [fact["build_seconds"] for fact in facts if fact.get("cache") == "hit"]
    if not shared:
        return []
    return [
        f"{len(shared)} runs read teacher features that another had computed, in up to {max(shared):.0f} s; "
        "their costs are without it"
    ]


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _entries(run: Run) -> list[Entry]:
    """Returns a run's own network with its last and its best weights, its control and its teacher."""
    made, setting = run.made, _setting(run.recipe)
    teacher_seconds = run.seconds("teacher") if made == "student" else None
    entries = [
        Entry(run, "made", False, setting, _figures(run, made), run.seconds(made), teacher_seconds),
        Entry(run, "made", True, setting, _figures(run, best_of(made)), run.seconds(made), teacher_seconds),
    ]
    plain = {key: value for key, value in setting.items() if not key.startswith(("objective.", "teacher."))}
    plain |= {f"objective.{argument.name}": argument.default for argument in objective_arguments("natural")}
    plain |= {"teacher": None, "objective.name": "natural", "train.epochs": run.recipe.control.epochs}
    plain |= dict.fromkeys(("train.ema", "train.average_epochs", "train.select_every"))
    entries.append(Entry(run, "control", False, plain, _figures(run, "control"), run.seconds("control")))
    if made == "student" and run.recipe.teacher is not None:
        teacher = {
            key: value
            for key, value in setting.items()
            if key.startswith("teacher.") and not key.startswith("teacher.cache")
        }
        entries.append(Entry(run, "teacher", False, teacher, _figures(run, "teacher"), teacher_seconds))
    return [entry for entry in entries if entry.figures]


def _setting(recipe: Recipe) -> Setting:
    content = recipe.model_dump(mode="json")
    for key in _OF_A_RUN:
        del content[key]
    flat = _flat(content)
    for key in _OPERATION:
        flat.pop(key, None)
    return flat


def _flat(content: Mapping[str, Any], prefix: str = "") -> Setting:
    flat: Setting = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


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
    return Column(title, row.attack, row.norm, row.eps, row.count, metrics.data)


def _with_ratios(entries: list[Entry], notes: list[str]) -> list[Entry]:
    plain_runs = [entry for entry in entries if entry.is_plain and entry.role == "made" and not entry.best]
    return [replace(entry, ratio=_ratio(entry, plain_runs, notes)) for entry in entries]


def _ratio(entry: Entry, plain_runs: Sequence[Entry], notes: list[str]) -> float | None:
    """Divides by the control's time in the same run, else by that of plain training of the same student."""
    if entry.role == "teacher" or entry.seconds is None:
        return None
    if entry.is_plain:
        return 1.0
    plain = entry.run.seconds("control")
    if plain is None:
        same = [other for other in plain_runs if _student(other) == _student(entry)]
        beside = [other for other in same if other.run.machine == entry.run.machine]
        if same and not beside:
            notes.append(
                f"{entry.run.folder}: no ratio to plain training, which ran on {same[0].run.machine}, "
                f"and this on {entry.run.machine}"
            )

        def distance(other: Entry) -> tuple[bool, bool]:
            epochs = "train.epochs"
            return other.setting[epochs] != entry.setting[epochs], other.seed != entry.seed

        plain = min(beside, key=distance).seconds if beside else None
    return entry.seconds / plain if plain else None


def _student(entry: Entry) -> object:
    recipe = entry.run.recipe
    return recipe.student.name, recipe.student.args, recipe.data.name, recipe.data.image_size


def _lines(entries: Sequence[Entry], notes: list[str]) -> list[Line]:
    groups: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    # A run of plain training comes before the controls that repeat it.
    for entry in sorted(entries, key=lambda entry: entry.role == "control"):
        key = ("teacher" if entry.role == "teacher" else "", entry.best, *_hashable(entry.setting))
        group = groups[key]
        twin = next((other for other in group if other.seed == entry.seed), None)
        if entry.role == "teacher" and group:
            # A teacher is one network, however many runs measure it.
            figures = {**entry.figures, **group[0].figures}
            group[0] = replace(group[0], figures=figures)
        elif twin is None:
            group.append(entry)
        elif entry.role == "made" and not entry.best:
            notes.append(f"{entry.run.folder}: left out, the same recipe and seed as {twin.run.folder}")
    names = _names(list(groups.values()))
    lines = [Line(*name, group) for name, group in zip(names, groups.values(), strict=True)]
    students = list(dict.fromkeys(entry.run.recipe.student.name for entry in entries))

    def place(line: Line) -> tuple[bool, int, bool]:
        first = line.entries[0]
        student = students.index(first.run.recipe.student.name)
        return first.role != "teacher", student, not first.is_plain

    return sorted(lines, key=place)


def _hashable(setting: Setting) -> tuple[str, ...]:
    return tuple(f"{key}={value!r}" for key, value in sorted(setting.items()))


def _names(groups: Sequence[Sequence[Entry]]) -> list[tuple[str, str]]:
    """Names method and student of each group; what would be named alike is told apart by its settings."""
    names = [(_method(group[0]), _architecture(group[0])) for group in groups]
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        alike[name].append(number)
    for (method, student), numbers in alike.items():
        settings = [groups[number][0].setting for number in numbers]
        keys = dict.fromkeys(key for setting in settings for key in setting)
        differing = [key for key in keys if len({repr(setting.get(key)) for setting in settings}) > 1]
        for number, setting in zip(numbers, settings, strict=True):
            words = [f"{key}={setting[key]}" for key in differing if key in setting]
            names[number] = (" ".join([method, *words]), student)
    return names


def _method(entry: Entry) -> str:
    if entry.role == "teacher":
        return "teacher"
    objective = {
        key.removeprefix("objective."): value
        for key, value in entry.setting.items()
        if key.startswith("objective.")
    }
    name = str(objective.pop("name"))
    try:
        defaults = {argument.name: argument.default for argument in objective_arguments(name)}
    except UserError:  # of another version
        defaults = {}
    given = [f"{key}={value}" for key, value in objective.items() if defaults.get(key) != _as_written(value)]
    return ":".join([name, *given]) + (" (best)" if entry.best else "")


def _as_written(value: object) -> object:
    """Returns a recipe's value as an objective has it: sequences are tuples there."""
    return tuple(map(_as_written, value)) if isinstance(value, list) else value


def _architecture(entry: Entry) -> str:
    teacher = entry.run.recipe.teacher
    if entry.role == "teacher" and teacher is not None:
        return public_name(teacher.name)
    return entry.run.recipe.student.name


def _other_images(runs: Sequence[Run]) -> list[str]:
    """Names the runs whose figures were taken on other images than those of most."""
    images = [(run.metrics.data, max(row.count for row in run.metrics.rows)) for run in runs]
    (usual, _), *others = Counter(images).most_common()
    if not others:
        return []
    return [
        f"{run.folder}: measured on {count:,} other images than {runs[images.index(usual)].folder} "
        f"({usual[1]:,}); its figures stand in columns of their own and are not to be compared"
        for run, (data, count) in zip(runs, images, strict=True)
        if (data, count) != usual
    ]


def _columns(lines: Sequence[Line]) -> list[Column]:
    found = dict.fromkeys(column for line in lines for entry in line.entries for column in entry.figures)

    def coverage(column: Column) -> int:
        return sum(bool(line.rows(column)) for line in lines)

    # Evaluations repeat the clean accuracy, on fewer images; one that adds nothing is left out.
    clean: list[Column] = []
    for column in sorted((column for column in found if column.eps is None), key=coverage, reverse=True):
        if any(line.rows(column) and not any(line.rows(kept) for kept in clean) for line in lines):
            clean.append(column)
    robust = sorted(
        (column for column in found if column.eps is not None),
        key=lambda column: (str(column.norm), column.eps, column.title, -coverage(column)),
    )
    return [*clean, *robust]
