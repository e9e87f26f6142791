"""A weights file, opened: tensors under plain names, and what the file itself says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.core.weights.state_dict import read_state_dict
from rrm_transfer.teachers.unwrapping import unwrap


@dataclass(frozen=True)
class Checkpoint:
    """Tensors with what the file says about them.

    Attributes:
        file: Where they were read.
        sha256: Of the file.
        tensors: By plain names, wrappers removed.
        statistics: The normalization that stands in the file, or None.
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
        file: In any of the forms that docs/reference/teachers.md lists.
        sha256: That it must have.

    Raises:
        UserError: It cannot be read safely, holds no weights, or is not the file that was published.
    """
    found = sha256_of(file) if sha256 is not None and file.is_file() else ""
    if found and found != sha256:
        raise UserError(
            "The model's weights are not those that were recorded.",
            received=f"{file}, sha256 {found}",
            allowed=f"sha256 {sha256}",
            hint="the file is damaged or was replaced; remove it and fetch it again",
        )
    state_dict = read_state_dict(file)
    unwrapped = unwrap(state_dict.tensors)
    entries = tuple(f"entry {name}" for name in state_dict.path)
    # Hashed last where nothing was recorded: a file may be vast and hold nothing.
    found = found or sha256_of(file)
    return Checkpoint(file, found, unwrapped.tensors, unwrapped.statistics, (*entries, *unwrapped.form))
