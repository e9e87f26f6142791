"""Many runs in one folder: finished ones are skipped, failed ones named, interrupted ones continued."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rrm_transfer.core.documents import differences
from rrm_transfer.core.errors import Interrupted, RecipeError, UserError
from rrm_transfer.core.files import require_writable, write_text
from rrm_transfer.recipe.loading import dump_recipe, read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.runs.resolve import check_names
from rrm_transfer.runtime.interruption import StopRequest
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.sweeps.launchers import Launcher, Task
from rrm_transfer.teachers.sources import find_origin

_HEADER = "# A run of a sweep of rrm-transfer.\n"
"""Begins a sweep's recipes, by which they are known from a user's."""
_SHOWN = 8
"""Differences from an earlier sweep that a message shows."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        name: Of its folder.
        recipe: What it does.
    """

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Outcome:
    """What became of a planned run."""

    name: str
    folder: Path
    status: Literal["finished", "skipped", "failed"]
    error: str | None = None


class Problems:
    """Mistakes that are told together, each once."""

    def __init__(self) -> None:
        self._found: dict[str, UserError] = {}

    def add(self, error: UserError) -> None:
        if isinstance(error, RecipeError):
            for path, message in error.problems:
                self._found.setdefault(f"{path}: {message}", error)
        else:
            self._found.setdefault(str(error), error)

    def tell(self) -> None:
        """Raises what was found.

        Raises:
            UserError: All of it.
        """
        if len(self._found) == 1:
            raise next(iter(self._found.values()))
        if self._found:
            listing = "\n".join("  " + text.replace("\n", "\n  ") for text in self._found)
            raise UserError(f"The sweep has {len(self._found)} problems, and nothing was started:\n{listing}")


def check_runs(runs: Sequence[PlannedRun], problems: Problems) -> None:
    """Checks what needs no data: names, arguments, and whether teachers can be found."""
    teachers: set[tuple[object, ...]] = set()
    for run in runs:
        try:
            recipe, objective = check_names(run.recipe)
            if not objective.needs:
                continue
            teacher = recipe.teacher
            if teacher is None:
                raise UserError(
                    f"The objective {recipe.objective.name!r} needs a teacher.", hint="--set teacher.name=T"
                )
            source = (teacher.name, teacher.arch, teacher.weights)
            if source not in teachers:
                teachers.add(source)
                find_origin(teacher.name, arch=teacher.arch, weights=teacher.weights)
        except UserError as error:
            problems.add(error)


class Sweep:
    """Runs with their folder: ``NAME/`` for each, its recipe in ``recipes/``, what it printed in ``logs/``.

    Args:
        folder: Need not exist.
        runs: Names are unique.
        allow_code: Whether code that a recipe names may be run.
    """

    def __init__(self, folder: Path, runs: Sequence[PlannedRun], *, allow_code: bool = False) -> None:
        self.folder = folder
        self.runs = runs
        self._allow_code = allow_code

    def check(self, problems: Problems) -> None:
        """Checks that the runs that the folder holds are the planned ones, and its files those of a sweep."""
        if self.folder.exists() and not self.folder.is_dir():
            problems.add(UserError("The output is a file, not a folder.", received=self.folder))
            return
        for run in self.runs:
            folder, known = RunFolder(self.folder / run.name), self._recipe(run)
            try:
                folder.check(overwrite=False, resume=True)
                require_writable(known, self._log(run), ours=partial(_is_ours, folder, known))
            except UserError as error:
                problems.add(error)
                continue
            if not folder.is_started:
                continue
            before = read_recipe(str(known)).model_dump(mode="json") if known.is_file() else {}
            if changes := differences(before, run.recipe.model_dump(mode="json")):
                listing = "\n".join(f"  {change}" for change in changes[:_SHOWN])
                problems.add(
                    UserError(
                        f"The output folder holds this run of another sweep:\n{listing}",
                        received=folder.path,
                        hint="another --output, or the settings of before",
                    )
                )

    def carry_out(self, launcher: Launcher, narrator: Narrator, *, quiet: bool = False) -> list[Outcome]:
        """Carries out what is not finished.

        Args:
            launcher: Where.
            narrator: Says what happens.
            quiet: Whether the runs keep silent.

        Returns:
            One outcome for each run, in order.

        Raises:
            Interrupted: The sweep was asked to stop; carried out again, it goes on.
        """
        outcomes: dict[str, Outcome] = {}
        tasks = []
        for run in self.runs:
            folder = RunFolder(self.folder / run.name)
            if folder.is_finished:
                outcomes[run.name] = Outcome(run.name, folder.path, "skipped")
            else:
                write_text(self._recipe(run), _HEADER + dump_recipe(run.recipe))
                tasks.append(self._task(run, quiet=quiet))
        if outcomes:
            narrator.note(f"finished before: {len(outcomes)} of {len(self.runs)} runs")
        with StopRequest():
            try:
                for ended in launcher(tasks, narrator) if tasks else ():
                    name = ended.task.name
                    outcomes[name] = Outcome(name, self.folder / name, "finished")
                    if ended.error is not None:
                        outcomes[name] = Outcome(name, self.folder / name, "failed", ended.error)
                        narrator.warn(f"{name} failed: {ended.error}")
            except Interrupted as stopped:
                raise Interrupted(f"{stopped}\n  next:     the same command continues the sweep") from None
        return [outcomes[run.name] for run in self.runs]

    def _recipe(self, run: PlannedRun) -> Path:
        return self.folder / "recipes" / f"{run.name}.yaml"

    def _task(self, run: PlannedRun, *, quiet: bool) -> Task:
        command = (
            sys.executable, "-m", "rrm_transfer", "run", "--recipe", str(self._recipe(run)),
            "--output", str(self.folder / run.name), "--resume",
            *(["--quiet"] if quiet else []), *(["--allow-code"] if self._allow_code else []),
        )  # fmt: skip
        return Task(run.name, command, self._log(run))

    def _log(self, run: PlannedRun) -> Path:
        return self.folder / "logs" / f"{run.name}.log"


def _is_ours(run: RunFolder, recipe: Path, file: Path) -> bool:
    """Tells whether a sweep wrote the recipe of a run, and so its log, too."""
    try:
        return run.is_started or recipe.read_text(encoding="utf-8").startswith(_HEADER)
    except (OSError, ValueError):
        return False
