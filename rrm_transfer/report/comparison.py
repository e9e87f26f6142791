"""Many runs in one table: accuracies, costs, and their spread over seeds."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import public_name
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.objectives import objective_arguments
from rrm_transfer.report.entries import Column, Entry, entries_of, with_ratios
from rrm_transfer.runs.runs import LeftOut, Run, read_runs

_PRECISION = "train.precision"


@dataclass(frozen=True)
class Spread:
    """Values over several runs; the deviation is the sample's, None for one run."""

    mean: float
    deviation: float | None


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
    entries = with_ratios([entry for run in runs for entry in entries_of(run)], notes)
    lines = _lines(entries, notes)
    notes += [note for line in lines for note in _mixed_precision(line)] + _other_images(runs)
    return Comparison(_columns(lines), lines, left_out, list(dict.fromkeys(notes)))


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _lines(entries: Sequence[Entry], notes: list[str]) -> list[Line]:
    groups: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    same = _keys(entries)
    # A run of plain training comes before the controls that repeat it.
    for entry in sorted(entries, key=lambda entry: entry.role == "control"):
        group = groups[same[id(entry)]]
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


def _keys(entries: Sequence[Entry]) -> dict[int, tuple[object, ...]]:
    """Returns what entries of one line have in common, by the entry's id.

    Each run may have chosen its precision by a measurement; that alone does not part its seeds, only runs of
    one seed.
    """
    keys = {id(entry): _key(entry, precision=False) for entry in entries}
    chosen: dict[tuple[object, ...], set[object]] = defaultdict(set)
    for entry in entries:
        chosen[*keys[id(entry)], entry.seed].add(entry.setting.get(_PRECISION))
    parted = {key[:-1] for key, precisions in chosen.items() if len(precisions) > 1}
    return {
        id(entry): _key(entry, precision=True) if keys[id(entry)] in parted else keys[id(entry)]
        for entry in entries
    }


def _key(entry: Entry, *, precision: bool) -> tuple[object, ...]:
    setting = sorted(
        f"{key}={value!r}" for key, value in entry.setting.items() if precision or key != _PRECISION
    )
    return "teacher" if entry.role == "teacher" else "", entry.best, *setting


def _mixed_precision(line: Line) -> list[str]:
    precisions = {entry.seed: str(entry.setting.get(_PRECISION)) for entry in line.entries}
    if len(set(precisions.values())) == 1:
        return []
    listing = ", ".join(f"{precision} for seed {seed}" for seed, precision in sorted(precisions.items()))
    return [f"{line.method} of {line.student}: trained in {listing}"]


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
