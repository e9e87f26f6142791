"""The run folder: one job's recipe, student, figures, log and checkpoints."""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch

from rrm_transfer import __version__
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text
from rrm_transfer.engine.runtime import Runtime
from rrm_transfer.recipe.schema import Recipe

_LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors")


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
        self._lock = path / ".lock"

    @property
    def is_finished(self) -> bool:
        return self.metrics.is_file()

    @property
    def is_started(self) -> bool:
        return self.recipe.is_file()

    def check(self, *, overwrite: bool, resume: bool) -> None:
        """Checks that a run may write here.

        Raises:
            UserError: The folder is taken.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError("The output is a file, not a folder.", received=self.path)
        if self.is_started:
            if self.is_finished and not overwrite:
                raise UserError(
                    "The output folder holds a finished run.",
                    received=self.path,
                    hint="another --output, or --overwrite to replace it",
                )
            if not self.is_finished and not (overwrite or resume):
                raise UserError(
                    "The output folder holds an unfinished run.",
                    received=self.path,
                    hint="--resume to continue it, or --overwrite to replace it",
                )
        elif any(p != self.environment and not _is_temporary(p) for p in self.path.iterdir()):
            raise UserError(
                "The output folder is not empty and holds no run.",
                received=self.path,
                hint="another --output",
            )

    def check_same(self, recipe_yaml: str, *, processes: int) -> None:
        """Checks that a run that is to be resumed is the one that was started.

        Raises:
            UserError: Recipe or number of processes differ; the difference is shown.
        """
        before, now = (_without_output(t) for t in (self.recipe.read_text(encoding="utf-8"), recipe_yaml))
        difference = [
            line
            for line in difflib.unified_diff(before, now, "started", "now", lineterm="", n=0)
            if line[:1] in "+-" and line[:3] not in ("+++", "---")
        ]
        try:
            started = json.loads(self.environment.read_text(encoding="utf-8"))["processes"]
        except (OSError, ValueError, KeyError):
            started = processes
        if started != processes:
            difference += [f"-processes: {started}", f"+processes: {processes}"]
        if difference:
            raise UserError(
                "The run in the output folder is another one, so it cannot be resumed:\n"
                + "\n".join(difference),
                received=self.path,
                hint="the same command as before with --resume, or another --output",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the folder, which is created where it is missing, to this process for the block.

        The lock is the operating system's and ends with the process, so that none is ever stale.

        Raises:
            UserError: Another run has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with self._take_lock() as lock:
            lock.write(holder)
            lock.flush()
            try:
                yield
            finally:
                self._lock.unlink(missing_ok=True)

    def _take_lock(self) -> IO[str]:
        while True:
            lock = self._lock.open("a+", encoding="utf-8")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with lock:
                    lock.seek(0)
                    raise UserError(
                        "Another run is working in the output folder.",
                        received=f"{self.path}, held by {lock.read() or 'a run that is just starting'}",
                        hint="another --output, or wait for it",
                    ) from None
            if self._is_still(lock):
                # Workers that outlive a killed run must not keep its lock.
                os.register_at_fork(after_in_child=lock.close)
                lock.truncate(0)
                return lock
            lock.close()

    def _is_still(self, lock: IO[str]) -> bool:
        """Tells whether nobody removed the lock file between its opening and its locking."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), self._lock.stat())
        except FileNotFoundError:
            return False

    def open(self, recipe_yaml: str, *, processes: int, resume: bool) -> None:
        """Makes the folder ready for a run that holds its lock: a new one, or the one that stands there."""
        for folder in (self.path, self.checkpoints):
            for entry in folder.glob("*"):
                if entry != self._lock and (not resume or _is_temporary(entry)):
                    _remove(entry)
        if resume:
            self._mend_log()
        else:
            write_text(self.environment, json.dumps(environment(processes), indent=1) + "\n")
            write_text(self.recipe, recipe_yaml)

    def _mend_log(self) -> None:
        """Removes the line that a killed run was writing."""
        if self.log_file.is_file():
            with self.log_file.open("rb+") as stream:
                stream.truncate(stream.read().rfind(b"\n") + 1)

    def log(self, event: str, facts: dict[str, Any]) -> None:
        """Appends one event to log.jsonl."""
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")


def output_folder(recipe: Recipe, runtime: Runtime) -> Path:
    """Returns where a run is written: as the recipe says, else a new folder under ``runs``."""
    if recipe.output is not None:
        return recipe.output
    stamp = runtime.from_main(datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
    name = f"{recipe.name}-{recipe.student.name}-{stamp}".replace("/", "-")
    return Path("runs") / name


def environment(processes: int) -> dict[str, Any]:
    """Returns the versions and devices that a run's figures depend on; no names or paths of this machine."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processes": processes,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": library_versions(),
        "devices": devices or [f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads"],
    }


def library_versions() -> dict[str, str]:
    """Returns the versions of this package and of those that figures depend on."""
    return {"rrm-transfer": __version__, **{name: version(name) for name in _LIBRARIES}}


def _is_temporary(path: Path) -> bool:
    """Tells whether an entry is the lock, or what `replacing_file` left when its process was killed."""
    return path.name.startswith(".")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _without_output(recipe_yaml: str) -> list[str]:
    return [line for line in recipe_yaml.splitlines() if not line.startswith("output:")]
