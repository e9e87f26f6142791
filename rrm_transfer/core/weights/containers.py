"""Finding the state dict in what a checkpoint holds beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class StateDict:
    """The tensors that were found, and in which entries.

    Attributes:
        tensors: By name.
        path: The entries that led to them.
    """

    tensors: dict[str, Tensor]
    path: tuple[str, ...]


def state_dict_in(content: object, *, source: Path, path: tuple[str, ...] = ()) -> StateDict:
    """Finds the state dict in a checkpoint's content.

    Args:
        content: What was read.
        source: Names the file in messages.
        path: The entries that led to ``content``.

    Raises:
        UserError: There is none, or more than one that could be meant.
    """
    if not isinstance(content, Mapping):
        raise UserError(
            f"The file holds {_kind(content)}, not a network's weights by name.",
            received=source,
            hint="save the network's state dict: torch.save(model.state_dict(), FILE)",
        )
    inner = {str(key): value for key, value in content.items() if _holds_tensors(value)}
    chosen = next((name for name in _CONTAINERS if name in inner), None)
    if chosen is None and len(inner) == 1:
        chosen = next(iter(inner))
    if chosen is not None:
        return state_dict_in(inner[chosen], source=source, path=(*path, chosen))
    if inner:
        raise UserError(
            "The file holds several state dicts, and none has a name that says it is the network's.",
            received=f"{source}: {', '.join(inner)}",
            hint="save the one that is meant as a file of its own",
        )
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError("The file holds no tensors.", received=source)
    return StateDict(tensors, path)


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(item, Tensor) or _holds_tensors(item) for item in value.values()
    )


def _kind(content: object) -> str:
    return "a single tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
