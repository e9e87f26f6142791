"""A network's weights out of a file: plain numbers by name, and no more of them than the file can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.containers import StateDict, state_dict_in
from rrm_transfer.core.weights.reading import read_file

_HARMLESS = 1 << 30
"""Bytes that tensors may claim in any file: one number repeated is stored as one number."""
_COPIES = 4
"""How often all of a file's numbers may be named: wrappers name a network twice."""
_LONGEST_NAME = 1 << 10
_TYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8,
    torch.bool,
)  # fmt: skip


def read_state_dict(file: Path) -> StateDict:
    """Reads a weights file, whichever its form.

    Raises:
        UserError: It cannot be read safely, or holds no weights.
    """
    state_dict = state_dict_in(read_file(file), source=file)
    _require_plain(state_dict.tensors, file)
    return state_dict


def require_same_kinds(model: nn.Module, tensors: Mapping[str, Tensor], *, source: object) -> None:
    """Refuses integers where a network has real numbers, and the reverse: they would be cast without a word.

    Args:
        model: May be on the meta device.
        tensors: By the model's own names; others are left aside.
        source: Names the file in messages.

    Raises:
        UserError: There is such a tensor.
    """
    for name, own in model.state_dict().items():
        given = tensors.get(name)
        if given is not None and given.is_floating_point() != own.is_floating_point():
            raise UserError(
                "A tensor is of another kind than the network's.",
                received=f"{source}: {name}, {given.dtype}",
                allowed=str(own.dtype),
                hint="weights that were quantised or packed: convert them to float32 where they were made",
            )


def _require_plain(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuses tensors that hold nothing of their own, or claim more numbers than the file has room for.

    Raises:
        UserError: There is one.
    """
    size = file.stat().st_size
    room, claimed = max(_HARMLESS, size), 0
    for name, tensor in tensors.items():
        if len(name) > _LONGEST_NAME:
            raise UserError(
                "A tensor's name is longer than any network's.",
                received=f"{file}: {name[:100]}…, {len(name):,} characters",
            )
        plain = not tensor.is_nested and tensor.layout == torch.strided and not tensor.is_quantized
        if not plain or tensor.device.type != "cpu":
            raise UserError(
                "A tensor is sparse, nested, quantised or without values; a network's weights are numbers.",
                received=f"{file}: {name}",
            )
        if tensor.dtype not in _TYPES:
            raise UserError(
                "A tensor is of a type that a network's weights do not have here.",
                received=f"{file}: {name}, {tensor.dtype}",
                allowed=", ".join(str(kind).removeprefix("torch.") for kind in _TYPES),
                hint="convert the weights to float32 where the file was made",
            )
        # A dimension of 0 must not hide the others, from which a network's widths are read.
        own = math.prod(max(1, side) for side in tensor.shape) * tensor.element_size()
        claimed += own
        if own > room or claimed > _HARMLESS + _COPIES * size:
            raise UserError(
                "A tensor claims more numbers than the file has room for.",
                received=f"{file}: {name}, {own:,} bytes",
            )
