"""Many runs in one table: accuracies, costs, and their spread over seeds."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import public_name
from rrm_transfer.evaluation.metrics import BEST, Model, Row
from rrm_transfer.evaluation.paired import Difference, difference, mean_difference, unpaired_difference
from rrm_transfer.objectives import objective_arguments
from rrm_transfer.report.entries import Column, Entry, entries_of
from rrm_transfer.runs.finished import FinishedRun, LeftOut, read_runs
from rrm_transfer.runs.spent import Spent


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
    def model(self) -> Model:
        return self.entries[0].model

    @property
    def epochs(self) -> object:
        return self.entries[0].setting.get("train.epochs")

    def rows(self, column: Column) -> list[Row]:
        return [entry.figures[column] for entry in self.entries if column in entry.figures]

    def right(self, column: Column) -> npt.NDArray[np.float64] | None:
        """Returns the share of the runs that got each image right, ``(count,)``; None where not known."""
        found = [right for row in self.rows(column) if (right := row.right()) is not None]
        if not found or len(found) < len(self.rows(column)):
            return None
        return np.mean(found, axis=0, dtype=np.float64)  # type: ignore[no-any-return]

    def accuracy(self, column: Column) -> Spread | None:
        return _spread([row.accuracy for row in self.rows(column)])

    def seconds(self, *, teacher: bool = False) -> Spread | None:
        """Returns what the runs' training took, or their teacher's."""
        return self._over(lambda spent: spent.seconds, teacher=teacher)

    def passes(self, *, teacher: bool = False) -> Spread | None:
        """Returns the same in epochs of plain training."""
        return self._over(lambda spent: None if spent.passes is None else spent.passes.total, teacher=teacher)

    def _over(self, value: Callable[[Spent], float | None], *, teacher: bool) -> Spread | None:
        spent = [entry.teacher if teacher else entry.spent for entry in self.entries]
        found = [value(one) for one in spent if one is not None]
        return _spread([figure for figure in found if figure is not None])


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

    def best(self, column: Column) -> Line | None:
        """Returns the line of trained networks with the highest accuracy."""
        trained = [line for line in self.lines if line.model != "teacher" and line.rows(column)]
        return max(
            trained,
            key=lambda line: statistics.fmean(row.accuracy for row in line.rows(column)),
            default=None,
        )

    def to_best(self, line: Line, column: Column) -> Difference | None:
        """Returns how far a line is from a column's most accurate trained network; None for that one itself.

        Image by image, where it is known that the images are the same and which of them each got right.
        """
        best = self.best(column)
        if best is None or best is line or not line.rows(column):
            return None
        rows, others = line.rows(column), best.rows(column)
        ours, theirs = line.right(column), best.right(column)
        if column.data is None or ours is None or theirs is None:
            means = (statistics.fmean(row.accuracy for row in side) for side in (rows, others))
            return unpaired_difference(next(means), column.count, next(means), column.count)
        if len(rows) == len(others) == 1:
            return difference(rows[0], others[0])
        return Difference(mean_difference(ours, theirs), paired=True)


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
    lines = _lines([entry for run in runs for entry in entries_of(run)], notes)
    notes += [*_other_images(runs), *_other_machines(runs)]
    return Comparison(_columns(lines), lines, left_out, list(dict.fromkeys(notes)))


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _lines(entries: Sequence[Entry], notes: list[str]) -> list[Line]:
    groups: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    # A run of plain training comes before the controls that repeat it.
    for entry in sorted(entries, key=lambda entry: entry.model == "control"):
        group = groups[_key(entry)]
        twin = next((other for other in group if other.seed == entry.seed), None)
        if entry.model == "teacher" and group:
            # A teacher is one network, however many runs measure it.
            figures = {**entry.figures, **group[0].figures}
            group[0] = replace(group[0], figures=figures)
        elif twin is None:
            group.append(entry)
        elif entry.model == "student":
            notes.append(f"{entry.run.folder}: left out, the same recipe and seed as {twin.run.folder}")
    names = _names(list(groups.values()))
    lines = [Line(*name, group) for name, group in zip(names, groups.values(), strict=True)]
    students = list(dict.fromkeys(entry.run.recipe.student.name for entry in entries))

    def place(line: Line) -> tuple[bool, int, bool]:
        first = line.entries[0]
        student = students.index(first.run.recipe.student.name)
        return first.model != "teacher", student, not first.is_plain

    return sorted(lines, key=place)


def _key(entry: Entry) -> tuple[object, ...]:
    """Returns what entries of one line have in common; a control is plain training."""
    kind = entry.model if entry.model in ("teacher", BEST) else ""
    return kind, *sorted(f"{key}={value!r}" for key, value in entry.setting.items())


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
    if entry.model == "teacher":
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
    return ":".join([name, *given]) + (" (best)" if entry.model == BEST else "")


def _as_written(value: object) -> object:
    """Returns a recipe's value as an objective has it: sequences are tuples there."""
    return tuple(map(_as_written, value)) if isinstance(value, list) else value


def _architecture(entry: Entry) -> str:
    teacher = entry.run.recipe.teacher
    if entry.model == "teacher" and teacher is not None:
        return public_name(teacher.name)
    return entry.run.recipe.student.name


def _other_images(runs: Sequence[FinishedRun]) -> list[str]:
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


def _other_machines(runs: Sequence[FinishedRun]) -> list[str]:
    """Names the runs whose seconds are not those of the machine that trained most."""
    machines = [str(run.spent("student").machine) for run in runs]
    (usual, _), *others = Counter(machines).most_common()
    if not others:
        return []
    return [
        f"{run.folder}: trained on {machine}, others on {usual}; seconds are not to be compared"
        for run, machine in zip(runs, machines, strict=True)
        if machine != usual
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
