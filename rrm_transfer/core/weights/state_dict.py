"""A network's weights out of a file: plain numbers by name, and no more of them than the file can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.containers import StateDict, state_dict_in
from rrm_transfer.core.weights.reading import read_file

_HARMLESS = 1 << 30
"""Bytes that one tensor may claim in any file: one number repeated is stored as one number."""


def read_state_dict(file: Path) -> StateDict:
    """Reads a weights file, whichever its form.

    Raises:
        UserError: It cannot be read safely, or holds no weights.
    """
    state_dict = state_dict_in(read_file(file), source=file)
    _require_plain(state_dict.tensors, file)
    return state_dict


def _require_plain(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuses tensors that hold nothing of their own, or claim more numbers than the file has room for.

    Raises:
        UserError: There is one.
    """
    room = max(_HARMLESS, file.stat().st_size)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError(
                "A tensor is sparse, quantised or empty of values; a network's weights are plain numbers.",
                received=f"{file}: {name}",
            )
        # A dimension of 0 must not hide the others, from which a network's widths are read.
        claimed = math.prod(max(1, side) for side in tensor.shape) * tensor.element_size()
        if claimed > room:
            raise UserError(
                "A tensor claims more numbers than the file has room for.",
                received=f"{file}: {name}, {claimed:,} bytes",
            )
