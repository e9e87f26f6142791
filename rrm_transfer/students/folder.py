"""The folder of an exported network, in timm's form or marked as not stock: its files and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import timm
from torch import Tensor

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.core.stems import MARKED_PREFIX, MARKED_WEIGHTS, STOCK_WEIGHTS
from rrm_transfer.core.weights.state_dict import read_state_dict

CONFIG = "config.json"
_OLDER_WEIGHTS = "pytorch_model.bin"

# What timm's constructors and loaders raise on a configuration that is not theirs.
_DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


class StudentFolder:
    """A folder with ``config.json`` and weights.

    Args:
        path: It, or the run folder that it is the ``student`` of.

    Attributes:
        path: Where the files are.
        config: What ``config.json`` says, unchecked; read it within :meth:`reading`.

    Raises:
        UserError: There is no such folder, or its configuration is not JSON.
    """

    def __init__(self, path: Path) -> None:
        if not (path / CONFIG).is_file() and (path / "student" / CONFIG).is_file():
            path = path / "student"
        if not (path / CONFIG).is_file():
            raise UserError(
                "No student here.",
                received=path,
                allowed="a run folder, a folder with config.json and model.safetensors, or hf-hub:user/name",
            )
        self.path = path
        with self.reading():
            self.config = cast(dict[str, Any], parse_json((path / CONFIG).read_text(encoding="utf-8")))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Tells whatever a configuration that is not timm's makes others raise as damage of the files.

        Raises:
            UserError: In its place.
        """
        try:
            yield
        except _DAMAGED as error:
            raise UserError(
                "The student's files are incomplete or damaged.",
                received=self.path,
                allowed=f"timm said: {error}",
            ) from error

    @property
    def stem(self) -> str | None:
        """The replaced stem."""
        return cast(str | None, self.config.get("rrm", {}).get("stem"))

    @property
    def architecture(self) -> str:
        """The network's timm name.

        Raises:
            UserError: timm has none of that name.
        """
        name = self.config["rrm"]["architecture"] if self.stem else self.config["architecture"]
        if not (isinstance(name, str) and timm.is_model(name)):
            raise UserError(
                "Unknown student: timm has no such architecture.", received=f"{self.path}: {name}"
            )
        return name

    @property
    def recorded(self) -> Mapping[str, Any]:
        """What is said of the weights: input size, mean, std, license."""
        return cast(Mapping[str, Any], self.config["pretrained_cfg"])

    @property
    def statistics(self) -> PixelStatistics:
        """The normalization of the network's input."""
        return PixelStatistics(tuple(self.recorded["mean"]), tuple(self.recorded["std"]))

    @property
    def args(self) -> dict[str, Any]:
        """What was given to ``timm.create_model``, classes and channels included."""
        return dict(self.config.get("model_args") or {})

    @property
    def weights(self) -> Path:
        """The file with the tensors."""
        names = (MARKED_WEIGHTS,) if self.stem else (STOCK_WEIGHTS, _OLDER_WEIGHTS)
        return next((self.path / name for name in names if (self.path / name).exists()), self.path / names[0])

    def tensors(self) -> dict[str, Tensor]:
        """Reads the weights by timm's names.

        Raises:
            UserError: They cannot be read safely.
        """
        tensors = read_state_dict(self.weights).tensors
        if not self.stem:
            return dict(tensors)
        return {key.removeprefix(MARKED_PREFIX): tensor for key, tensor in tensors.items()}
