"""Finding the state dict in what a checkpoint holds beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rrm_transfer.core.errors import UserError

# Averaged weights first: where a file has both, they are what its author evaluated (timm takes them too).
_CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "teacher",
    "params",
    "weights",
)

_DEEPEST = 16


@dataclass(frozen=True)
class StateDict:
    """The tensors that were found, and in which entries.

    Attributes:
        tensors: By name.
        path: The entries that led to them.
    """

    tensors: dict[str, Tensor]
    path: tuple[str, ...]


def state_dict_in(content: object, *, source: Path) -> StateDict:
    """Finds the state dict in a checkpoint's content.

    Args:
        content: What was read.
        source: Names the file in messages.

    Raises:
        UserError: There is none, or more than one that could be meant.
    """
    holding = _holding(content)
    if not isinstance(content, Mapping) and id(content) not in holding:
        raise UserError(
            f"The file holds {_kind(content)}, not a network's weights by name.",
            received=source,
            hint="save the network's state dict: torch.save(model.state_dict(), FILE)",
        )
    entries = _entries(content)
    path: list[str] = []
    while inner := {str(key): value for key, value in entries.items() if id(value) in holding}:
        chosen = next((name for name in _CONTAINERS if name in inner), None)
        if chosen is None and len(inner) == 1:
            chosen = next(iter(inner))
        if chosen is None:
            listed = ", ".join(".".join((*path, name)) for name in inner)
            raise UserError(
                "The file holds several state dicts, and none has a name that says it is the network's.",
                received=f"{source}: {listed[:600]}",
                hint="save the one that is meant as a file of its own",
            )
        path.append(chosen)
        entries = _entries(inner[chosen])
        if len(path) > _DEEPEST:
            raise UserError(
                "The file's entries are nested too deeply, or hold themselves.",
                received=f"{source}: {'.'.join(path[:4])[:200]}…",
                allowed=f"{_DEEPEST} levels",
            )
    tensors = {str(key): value for key, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError("The file holds no tensors.", received=source)
    return StateDict(tensors, tuple(path))


def _entries(container: object) -> Mapping[object, Any]:
    """Returns what a container holds by name; of a list the mappings in it, by their place."""
    if isinstance(container, Mapping):
        return container
    if isinstance(container, list | tuple):
        return {place: value for place, value in enumerate(container) if isinstance(value, Mapping)}
    return {}


def _holding(content: object) -> set[int]:
    """Returns the ids of the containers that hold tensors at any depth; each container is looked at once."""
    parents: dict[int, list[int]] = {id(content): []}
    waiting = [content]
    found: list[int] = []
    while waiting:
        container = waiting.pop()
        values = _entries(container).values()
        if any(isinstance(value, Tensor) for value in values):
            found.append(id(container))
        for value in values:
            if isinstance(value, Mapping | list | tuple):
                if id(value) not in parents:
                    parents[id(value)] = []
                    waiting.append(value)
                parents[id(value)].append(id(container))
    holding: set[int] = set()
    while found:
        place = found.pop()
        if place not in holding:
            holding.add(place)
            found.extend(parents[place])
    return holding


def _kind(content: object) -> str:
    return "a single tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
