"""The run folder: one job's recipe, student, figures, log and checkpoints."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import (
    is_partial,
    place_of,
    remove_files,
    remove_partial,
    require_shallow,
    write_text,
)
from rrm_transfer.core.locks import hold
from rrm_transfer.core.stems import MARKED_WEIGHTS, STOCK_WEIGHTS
from rrm_transfer.evaluation.metrics import is_evaluation
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runs.continuation import Change, find_changes, require_same
from rrm_transfer.runtime.machine import environment
from rrm_transfer.runtime.processes import Runtime

_LOCK = ".rrm-transfer.lock"
_WRITTEN = re.compile(
    rf"""
    recipe\.yaml | environment\.json | log\.jsonl | metrics\.json | gallery\.safetensors
    | README\.md | report\.html
    | (student|student-best|control)/(config\.json|{re.escape(STOCK_WEIGHTS)}|{re.escape(MARKED_WEIGHTS)})
    | checkpoints/(student|control)-(\d{{8,}}|final)/state\.(json|safetensors)
    | evaluations/[^/]+\.json
    | robust-set/(robust-set\.json|train-\d{{5,}}-of-\d{{5,}}\.parquet)
    | tracking/(.+/)?(events\.out\.tfevents\.[^/]+|hparams\.yml)
    """,
    re.VERBOSE,
)
"""All that is written into a run folder, but for the lock, half-written files and what trackers keep for
themselves; ``--overwrite`` removes nothing else."""


class RunFolder:
    """Paths and files of one run.

    Args:
        path: The folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.json"
        self.student = path / "student"
        self.best = path / "student-best"
        self.control = path / "control"
        self.card = path / "README.md"
        self.report = path / "report.html"
        self.gallery = path / "gallery.safetensors"
        self.evaluations = path / "evaluations"
        self.environment = path / "environment.json"
        self.log_file = path / "log.jsonl"
        self.checkpoints = path / "checkpoints"
        self.robust_set = path / "robust-set"
        self._lock = path / _LOCK
        self._folders = (
            self.student, self.best, self.control, self.checkpoints, self.evaluations, self.robust_set,
        )  # fmt: skip

    @property
    def is_finished(self) -> bool:
        return self.metrics.is_file()

    @property
    def is_ours(self) -> bool:
        """Whether a run wrote into the folder; its ``environment.json`` comes before everything else."""
        if not self.environment.is_file():
            return False
        try:
            content = parse_json(self.environment.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        versions = content.get("versions") if isinstance(content, dict) else None
        return isinstance(versions, dict) and isinstance(versions.get("rrm-transfer"), str)

    @property
    def is_started(self) -> bool:
        return self.recipe.is_file() and self.is_ours

    def check(self, *, overwrite: bool, resume: bool) -> None:
        """Checks that a run may write here.

        Raises:
            UserError: The folder is taken, or cannot be made.
        """
        require_shallow(self.path)
        if not self.path.is_dir():
            if self.path.exists() or self.path.is_symlink():
                raise UserError("The output is a file, not a folder.", received=self.path)
            return
        if not self.is_started:
            if any(not self._is_of_beginning(entry) for entry in self.path.iterdir()):
                raise UserError(
                    "The output folder is not empty and holds no run.",
                    received=self.path,
                    hint="another --output",
                )
            return
        self.refuse_links()
        for entry in (self._lock, *self._written()):
            place_of(entry)
        for folder in self._folders:
            if folder.exists() and not folder.is_dir():
                raise UserError("A file stands where a run has a folder.", received=folder, hint="remove it")
        if not (overwrite or resume):
            finished = self.is_finished
            raise UserError(
                f"The output folder holds {'a finished' if finished else 'an unfinished'} run.",
                received=self.path,
                hint=f"{'another --output' if finished else '--resume to continue it'}, or --overwrite "
                "to replace it",
            )

    def _is_of_beginning(self, entry: Path) -> bool:
        """Tells whether a run that was killed before it was started left an entry of the folder."""
        return entry == self._lock or is_partial(entry) or (entry == self.environment and self.is_ours)

    def _written(self) -> list[Path]:
        """Returns what stands under the names of a run's files."""
        found = []
        for folder, folders, names in os.walk(self.path):
            paths = [Path(folder) / name for name in (*folders, *names)]
            found += [path for path in paths if _WRITTEN.fullmatch(path.relative_to(self.path).as_posix())]
        return sorted(found)

    def refuse_links(self) -> None:
        """Checks that no link leads out of the folder: who packed it would choose what is read or written.

        Raises:
            UserError: One does.
        """
        root = self.path.resolve()
        for entry in self.path.rglob("*"):
            # Not `resolve`, which fails on links that lead to themselves.
            if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
                raise UserError(
                    "A link in the run folder leads out of it.",
                    received=f"{entry} -> {entry.readlink()}",
                    hint="remove it, or put what it leads to in its place",
                )

    def check_same(
        self, recipe_yaml: str, facts: Mapping[str, object], *, anyway: bool = False
    ) -> list[Change]:
        """Checks that a run that is to be resumed is the one that was started.

        Args:
            recipe_yaml: Resolved.
            facts: What else it depends on; see ``environment``.
            anyway: Whether it may go on with what can change in its course.

        Returns:
            What changed.

        Raises:
            UserError: Recipe or facts differ; the difference is shown.
        """
        changes = find_changes(self.recipe.read_text(encoding="utf-8"), recipe_yaml)
        try:
            started = parse_json(self.environment.read_text(encoding="utf-8"))
            before = {name: started[name] for name in facts}
        except (OSError, ValueError, KeyError, TypeError):
            before = dict.fromkeys(facts, "unknown: environment.json is missing or damaged")
        changes += [Change(name, before[name], now) for name, now in facts.items() if before[name] != now]
        require_same(changes, anyway=anyway, where=self.path)
        return changes

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the folder, which is created where it is missing, to this process for the block.

        Raises:
            UserError: Another run has it.
        """
        with hold(self._lock, taken="Another run is working in the output folder."):
            yield

    def open(
        self,
        recipe_yaml: str,
        facts: Mapping[str, object],
        *,
        resume: bool,
        changes: Sequence[Change] = (),
    ) -> list[Path]:
        """Makes the folder ready for a run that holds its lock: a new one, or the one that stands there.

        Files of a run that is replaced are removed one by one, and only they.

        Args:
            recipe_yaml: Resolved.
            facts: What else it depends on; see ``environment``.
            resume: Whether it is the one that stands there.
            changes: What changed since it was started.

        Returns:
            What a run that was replaced had not written, and so was left.
        """
        for folder in (self.path, *self._folders):
            remove_partial(folder)
        left = []
        if not resume and self.is_ours:
            evaluations = self.evaluations
            old = [path for path in self._written() if path.parent != evaluations or is_evaluation(path)]
            # These two are replaced below: a folder without them would be no run's.
            kept = {self.recipe, self.environment}
            remove_files([path for path in old if path not in kept], within=self.path)
            left = sorted(entry for entry in self.path.iterdir() if entry not in {self._lock, *kept})
        if resume:
            self._mend_log()
        if changes:
            self.log("changed", {"changes": {change.path: [change.before, change.now] for change in changes}})
        if changes or not resume:
            write_text(self.environment, json.dumps(environment(facts), indent=1) + "\n")
            write_text(self.recipe, recipe_yaml)
        return left

    def _mend_log(self) -> None:
        """Removes the line that a killed run was writing."""
        if self.log_file.is_file():
            with self.log_file.open("rb+") as stream:
                stream.truncate(stream.read().rfind(b"\n") + 1)

    def log(self, event: str, facts: dict[str, Any]) -> None:
        """Appends one event to log.jsonl."""
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the facts of all events of a name in log.jsonl."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines()
        return [event for event in map(parse_json, lines) if event["event"] == name]


def output_folder(recipe: Recipe, runtime: Runtime) -> Path:
    """Returns where a run is written: as the recipe says, else a new folder under ``runs``."""
    return recipe.output or runtime.from_main(free_path(f"{recipe.name}-{recipe.student.name}"))


def free_path(name: str) -> Path:
    """Returns a path for a run that begins now, ``runs/<name>-<UTC time>``."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    first = Path("runs") / f"{name}-{stamp}".replace("/", "-")
    # Two runs may begin in one second, and a clock may go back.
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in chain([first], others) if not path.exists())
