"""Checkpoints without pickle: tensors as safetensors, everything else as JSON, one checksum over both."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.files import replacing_folder, sha256_of

_TENSORS = "state.safetensors"
_STATE = "state.json"
_FINAL = "final"


@dataclass(frozen=True)
class Checkpoint:
    """The state of one training phase.

    Attributes:
        step: Optimiser steps done.
        tensors: By name.
        facts: What else there is; JSON values only.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training phase: the newest two, and the final one when training is done.

    Args:
        folder: Where they live.
        model: ``student`` or ``control``.
        warn: Told about each checkpoint that cannot be used.
    """

    def __init__(self, folder: Path, model: str, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._model = model
        self._warn = warn

    def save(self, checkpoint: Checkpoint, *, final: bool = False) -> Path:
        """Writes a checkpoint, then removes those that it makes unnecessary."""
        target = self._folder / f"{self._model}-{_FINAL if final else f'{checkpoint.step:08d}'}"
        with replacing_folder(target) as folder:
            # Copies: networks may share tensors, which safetensors refuses.
            tensors = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in checkpoint.tensors.items()
            }
            save_file(tensors, folder / _TENSORS)
            state = {"step": checkpoint.step, "facts": checkpoint.facts}
            sealed = {"sha256": _seal(folder / _TENSORS, state), **state}
            (folder / _STATE).write_text(json.dumps(sealed), encoding="utf-8")
        # Two files: should the final one turn out to be damaged, the one before it is there.
        for old in self._steps()[: -1 if final else -2]:
            shutil.rmtree(old)
        return target

    def newest(self) -> tuple[Checkpoint | None, bool]:
        """Returns the newest whole checkpoint, or None, and whether it ends its phase."""
        final = self._read(self._folder / f"{self._model}-{_FINAL}")
        if final is not None:
            return final, True
        for path in reversed(self._steps()):
            checkpoint = self._read(path)
            if checkpoint is not None:
                return checkpoint, False
        return None, False

    def _steps(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._model}-[0-9]*"))

    def _read(self, path: Path) -> Checkpoint | None:
        if not path.is_dir():
            return None
        try:
            state = parse_json((path / _STATE).read_text(encoding="utf-8"))
            if state.pop("sha256") != _seal(path / _TENSORS, state):
                raise ValueError("its checksum differs")
            step, facts = state["step"], state["facts"]
            if not (isinstance(step, int) and step >= 0 and isinstance(facts, dict)):
                raise ValueError("it is of another form")
            return Checkpoint(step, load_file(path / _TENSORS), facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            self._warn(f"checkpoint {path.name} is damaged ({error}); the one before it is used")
            return None


def _seal(tensors: Path, state: dict[str, Any]) -> str:
    return hashlib.sha256(f"{sha256_of(tensors)} {json.dumps(state, sort_keys=True)}".encode()).hexdigest()
