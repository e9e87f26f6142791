"""Finished runs, as a comparison reads them from their folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.evaluation.metrics import Metrics, read_metrics
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.evaluations import read_evaluations
from rrm_transfer.runs.folder import RunFolder


class LeftOut(NamedTuple):
    """A folder that cannot be compared, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where it is.
        recipe: Resolved.
        metrics: Of the run.
        evaluations: Made of it afterwards.
        machine: Processes and devices, which its times depend on.
    """

    folder: Path
    recipe: Recipe
    metrics: Metrics
    evaluations: list[Metrics]
    machine: str

    @property
    def made(self) -> str:
        """``student``, or ``teacher`` where a robust teacher was made."""
        return "student" if self.metrics.of("student") else "teacher"

    def seconds(self, model: str) -> float | None:
        """Returns how long ``model`` was trained.

        Whatever run computed the teacher's outputs that it read from a cache, all of that is its cost.
        """
        timing = self.metrics.timing.get(model, {})
        if timing.get("train_seconds") is None:
            return None
        cache: Mapping[str, float] = timing.get("teacher_features", {})
        return float(timing["train_seconds"]) - cache.get("seconds", 0) + cache.get("build_seconds", 0)


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Reads run folders; a folder that holds run folders stands for them.

    Returns:
        The finished runs in the order of ``paths``, and what cannot be read.

    Raises:
        UserError: A path is no run folder and holds none; all such are named.
    """
    folders = {path: list(_run_folders(path)) for path in paths}
    strangers = [str(path) for path, found in folders.items() if not found]
    if strangers:
        raise UserError(
            "Not a run folder.",
            received=", ".join(strangers),
            allowed="folders that rrm-transfer run, teach or sweep wrote",
        )
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    for folder in dict.fromkeys(folder for found in folders.values() for folder in found):
        try:
            runs.append(_read(RunFolder(folder), left_out))
        except UserError as problem:
            left_out.append(LeftOut(folder, problem.what))
    return runs, left_out


def _run_folders(path: Path) -> Iterator[Path]:
    if RunFolder(path).is_started:
        yield path
    elif path.is_dir():
        yield from sorted(child for child in path.iterdir() if RunFolder(child).is_started)


def _read(folder: RunFolder, left_out: list[LeftOut]) -> Run:
    if not folder.is_finished:
        raise UserError("not finished: the same command with --resume continues it")
    recipe, metrics = read_recipe(str(folder.recipe)), read_metrics(folder.metrics)
    evaluations, unreadable = read_evaluations(folder, made="student" if metrics.of("student") else "teacher")
    left_out += [LeftOut(folder.evaluations / name, "not an evaluation") for name in unreadable]
    return Run(folder.path, recipe, metrics, list(evaluations.values()), _machine(folder))


def _machine(folder: RunFolder) -> str:
    try:
        environment: Any = parse_json(folder.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        environment = None
    if not isinstance(environment, Mapping):
        return "unknown"
    devices = environment.get("devices") or ["unknown"]
    return f"{environment.get('processes', 1)} × {', '.join(map(str, devices))}"
