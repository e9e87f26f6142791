"""Experiment trackers, which accelerate drives: losses, learning rate and accuracies as they come."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rrm_transfer.core.documents import dotted
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.evaluation.metrics import Row
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.runtime.processes import Runtime

TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
"""As accelerate names them; each is the name of the package too."""

_ONE_CLOCK = frozenset({"swanlab", "trackio", "wandb"})
"""Trackers in which no later value has a lower step. Each network counts its steps from 0."""
_PROJECT = "rrm-transfer"


def check_tracker(name: str | None) -> None:
    """Checks that a tracker is known and installed.

    Raises:
        UserError: It is not.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise UserError(
            "Unknown tracker.", received=name, allowed=TRACKERS, hint=did_you_mean(name, TRACKERS)
        )
    if importlib.util.find_spec(name) is None:
        raise UserError("The tracker is not installed.", received=name, hint=f"pip install {name}")


class Tracking:
    """What a run tells its tracker; a context within which it is started.

    Args:
        name: From ``TRACKERS``; None: nobody is told.
        runtime: Whose main process tells it.
        folder: Of the run; local trackers write to its ``tracking/``.
        recipe: Resolved; told as the run's configuration.
    """

    def __init__(self, name: str | None, runtime: Runtime, folder: Path, recipe: Recipe) -> None:
        self.name = name
        self._accelerator = runtime.accelerator
        self._folder = folder
        self._recipe = recipe

    def __enter__(self) -> Self:
        if self.name is None:
            return self
        accelerator, folder = self._accelerator, self._folder / "tracking"
        accelerator.log_with = [self.name]
        accelerator.project_configuration.logging_dir = str(folder)
        arguments = {
            "dvclive": {"dir": str(folder)},
            "mlflow": {"run_name": self._folder.name},
            "swanlab": {"experiment_name": self._folder.name, "logdir": str(folder)},
            "trackio": {"name": self._folder.name},
            "wandb": {"name": self._folder.name, "dir": str(self._folder)},
        }
        try:
            accelerator.init_trackers(_PROJECT, config=_configuration(self._recipe), init_kwargs=arguments)
        except Exception as error:
            if type(error).__module__.partition(".")[0] != self.name:
                raise
            raise UserError(f"{self.name} cannot be started: {error}", hint="without --tracker") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.name is not None:
            self._accelerator.end_training()

    def log(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tells an event of the run's log, where it is a ``step``."""
        if event != "step":
            return
        model = facts["model"]
        values = {f"{model}/loss/{name}": value for name, value in facts["losses"].items()}
        values |= {f"{model}/{name}": facts[name] for name in ("lr", "images_per_s", "epoch")}
        if self.name in _ONE_CLOCK:
            self._tell({**values, f"{model}/step": facts["step"]}, None)
        else:
            self._tell(values, facts["step"])

    def accuracies(self, rows: Iterable[Row]) -> None:
        """Tells what was measured on the test split."""
        self._tell({_title(row): row.accuracy for row in rows if row.split == "test"}, None)

    def _tell(self, values: dict[str, float], step: int | None) -> None:
        if self.name is not None:
            self._accelerator.log(values, step=step)


def _title(row: Row) -> str:
    return f"accuracy/{row.model}/{row.title.replace('/', ' of ')}"


def _configuration(recipe: Recipe) -> dict[str, bool | float | str]:
    """Writes a recipe in the types that every tracker takes."""
    settings = dotted(recipe.model_dump(mode="json"))
    return {
        key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()
    }
