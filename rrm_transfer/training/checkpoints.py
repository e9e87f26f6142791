"""Checkpoints without pickle: tensors as safetensors, everything else as JSON, one checksum over both.

What of a training phase must be kept to go on exactly is packed and unpacked at the end of the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.files import remove_files, replacing_folder, sha256_of
from rrm_transfer.runtime.parallel import in_the_form_of, whole

_TENSORS = "state.safetensors"
_STATE = "state.json"
_FINAL = "final"
_STUDENT = "student/"
_OPTIMIZER = "optimizer/"
_OF_THE_RECIPE = ("lr", "initial_lr", "weight_decay")
"""Settings of a parameter group that a resumed run may have changed."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of one training phase.

    Attributes:
        step: Optimizer steps done.
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
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[Path] | None = None

    def begin(self, checkpoint: Checkpoint, *, final: bool = False) -> None:
        """Begins to write a copy of a checkpoint, while training goes on; ``written`` tells of its end."""
        # Copies also because networks may share tensors, which safetensors refuses.
        tensors = {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in checkpoint.tensors.items()
        }
        self._writing = self._writer.submit(self._write, replace(checkpoint, tensors=tensors), final)

    def written(self, *, wait_for_it: bool = False) -> Path | None:
        """Returns the checkpoint that was begun, once, as soon as it is written; None before.

        Args:
            wait_for_it: Whether to wait.

        Raises:
            Exception: Whatever kept it from being written.
        """
        writing = self._writing
        if writing is None or not (wait_for_it or writing.done()):
            return None
        self._writing = None
        return writing.result()

    def save(self, checkpoint: Checkpoint, *, final: bool = False) -> Path:
        """Writes a checkpoint and waits for it."""
        self.begin(checkpoint, final=final)
        path = self.written(wait_for_it=True)
        assert path is not None
        return path

    def finish(self) -> None:
        """Waits until nothing is being written, whatever comes of it."""
        if self._writing is not None:
            wait([self._writing])

    def _write(self, checkpoint: Checkpoint, final: bool) -> Path:
        """Writes a checkpoint, then removes those that it makes unnecessary."""
        target = self._folder / f"{self._model}-{_FINAL if final else f'{checkpoint.step:08d}'}"
        with replacing_folder(target) as folder:
            save_file(checkpoint.tensors, folder / _TENSORS)
            state = {"step": checkpoint.step, "facts": checkpoint.facts}
            sealed = {"sha256": _seal(folder / _TENSORS, state), **state}
            (folder / _STATE).write_text(json.dumps(sealed), encoding="utf-8")
        # Two files: should the final one turn out to be damaged, the one before it is there.
        for old in self._steps()[: -1 if final else -2]:
            remove_files([old / _TENSORS, old / _STATE], within=self._folder)
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
        name = re.compile(rf"{self._model}-\d{{8,}}")
        return sorted(path for path in self._folder.glob("*") if name.fullmatch(path.name))

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


def pack(
    student: nn.Module, optimizer: Optimizer, parts: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the facts of a checkpoint; all processes call it together.

    Args:
        student: The network in training.
        optimizer: Of its weights.
        parts: Tensors of what else has a state, by its name.
    """
    tensors = {_STUDENT + name: whole(value) for name, value in student.state_dict().items()}
    for part, state in parts.items():
        tensors |= {f"{part}/{name}": value for name, value in state.items()}
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}/{key}"] = whole(value)
            else:
                scalars.setdefault(str(index), {})[key] = value
    return tensors, {"scalars": scalars, "groups": state["param_groups"]}


def unpack(
    student: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Puts back what ``pack`` took from the student and the optimizer."""
    own = student.state_dict()
    student.load_state_dict(
        {name: in_the_form_of(value, own[name]) for name, value in _under(_STUDENT, tensors).items()}
    )
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in facts["scalars"].items()
    }
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, value in _under(_OPTIMIZER, tensors).items():
        index, key = name.split("/", 1)
        weight = weights[int(index)]
        if value.shape == weight.shape:
            value = in_the_form_of(value, weight)  # noqa: PLW2901
        state.setdefault(int(index), {})[key] = value
    groups = [
        {**saved, **{key: group[key] for key in _OF_THE_RECIPE if key in group}}
        for saved, group in zip(facts["groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Returns the tensors of one of the other parts that ``pack`` was given."""
    return _under(f"{name}/", tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
