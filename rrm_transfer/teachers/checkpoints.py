"""A weights file, opened: tensors under plain names, and what the file itself says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.teachers.containers import state_dict_in
from rrm_transfer.teachers.reading import read_file
from rrm_transfer.teachers.unwrapping import unwrap

_HARMLESS = 1 << 30
"""Bytes that one tensor may claim in any file: one number repeated is stored as one number."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors with what the file says about them.

    Attributes:
        file: Where they were read.
        sha256: Of the file.
        tensors: By plain names, wrappers removed.
        statistics: The normalisation that stands in the file, or None.
        form: What was recognised and removed, in order.
    """

    file: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    statistics: PixelStatistics | None = None
    form: tuple[str, ...] = ()


def open_checkpoint(file: Path, *, sha256: str | None = None) -> Checkpoint:
    """Reads a weights file.

    Args:
        file: In any of the forms that docs/teachers.md lists.
        sha256: That it must have.

    Raises:
        UserError: It cannot be read safely, holds no weights, or is not the file that was published.
    """
    found = sha256_of(file) if file.is_file() else ""
    if found and sha256 is not None and found != sha256:
        raise UserError(
            "The teacher's weights are not those that were recorded.",
            received=f"{file}, sha256 {found}",
            allowed=f"sha256 {sha256}",
            hint="the file is damaged or was replaced; remove it and fetch it again",
        )
    content = read_file(file)
    state_dict = state_dict_in(content, source=file)
    _require_plain(state_dict.tensors, file)
    unwrapped = unwrap(state_dict.tensors)
    entries = tuple(f"entry {name}" for name in state_dict.path)
    return Checkpoint(file, found, unwrapped.tensors, unwrapped.statistics, (*entries, *unwrapped.form))


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
