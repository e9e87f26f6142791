"""Checkpoints without pickle: tensors as safetensors, everything else as JSON, a checksum for both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rrm_transfer.core.files import replacing_folder, sha256_of

_TENSORS = "state.safetensors"
_STATE = "state.json"
_FINAL = "final"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: named tensors, and JSON-like facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training phase: the newest two, and the final one when training is done.

    Args:
        folder: Where they live.
        phase: ``student`` or ``control``.
        warn: Told about each checkpoint that cannot be used.
    """

    def __init__(self, folder: Path, phase: str, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._phase = phase
        self._warn = warn

    def save(self, step: int, checkpoint: Checkpoint, *, final: bool = False) -> Path:
        """Writes a checkpoint, then removes those that it makes unnecessary."""
        target = self._folder / f"{self._phase}-{_FINAL if final else f'{step:08d}'}"
        with replacing_folder(target) as folder:
            save_file(
                {name: value.contiguous() for name, value in checkpoint.tensors.items()}, folder / _TENSORS
            )
            facts = {"step": step, "facts": checkpoint.facts, "sha256": sha256_of(folder / _TENSORS)}
            (folder / _STATE).write_text(json.dumps(facts), encoding="utf-8")
        for old in self._steps()[: None if final else -2]:
            shutil.rmtree(old)
        return target

    def final(self) -> Checkpoint | None:
        """Returns the checkpoint of a finished phase, or None."""
        return self._read(self._folder / f"{self._phase}-{_FINAL}")

    def latest(self) -> Checkpoint | None:
        """Returns the newest whole checkpoint of an unfinished phase, or None."""
        for path in reversed(self._steps()):
            checkpoint = self._read(path)
            if checkpoint is not None:
                return checkpoint
        return None

    def _steps(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._phase}-[0-9]*"))

    def _read(self, path: Path) -> Checkpoint | None:
        if not path.is_dir():
            return None
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
            if sha256_of(path / _TENSORS) != state["sha256"]:
                raise ValueError("its checksum differs")
            return Checkpoint(load_file(path / _TENSORS), {"step": state["step"], **state["facts"]})
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            self._warn(f"checkpoint {path.name} is damaged ({error}); the one before it is used")
            return None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Splits an optimiser's state into tensors and facts."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    return tensors, {"scalars": scalars, "groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Puts back what ``pack_optimizer`` returned."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in facts["scalars"].items()
    }
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
