"""The run folder: one job's recipe, student, figures, log and checkpoints."""

from __future__ import annotations

import difflib
import json
import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import write_text

_LIBRARIES = ("rrm-transfer", "torch", "torchvision", "timm", "accelerate", "datasets", "safetensors")


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
        self.card = path / "README.md"
        self.report = path / "report.html"
        self.gallery = path / "gallery.safetensors"
        self.evaluations = path / "evaluations"
        self.environment = path / "environment.json"
        self.log_file = path / "log.jsonl"
        self.checkpoints = path / "checkpoints"

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
        elif any(self.path.iterdir()):
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
        before = self.recipe.read_text(encoding="utf-8").splitlines()
        difference = [
            line
            for line in difflib.unified_diff(
                before, recipe_yaml.splitlines(), "started", "now", lineterm="", n=0
            )
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

    def open(self, recipe_yaml: str, *, processes: int, overwrite: bool) -> None:
        """Creates the folder and writes the recipe and the environment."""
        if overwrite and self.is_started:
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.environment, json.dumps(environment(processes), indent=1) + "\n")
        write_text(self.recipe, recipe_yaml)

    def log(self, event: str, facts: dict[str, Any]) -> None:
        """Appends one event to log.jsonl."""
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")


def environment(processes: int) -> dict[str, Any]:
    """Returns the versions and devices that a run's figures depend on; no names or paths of this machine."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processes": processes,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "devices": devices or [f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads"],
    }
