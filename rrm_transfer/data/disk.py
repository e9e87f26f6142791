"""Whether there is room for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from rrm_transfer.core.errors import UserError


def require_space(needed: int, folder: Path, *, what: str, variable: str = "HF_HOME") -> None:
    """Compares a size with the free space where ``folder`` is or would be made.

    Args:
        needed: Bytes.
        folder: Where they would go.
        what: Begins the message.
        variable: Of the environment, that names a folder in which ``folder`` lies.

    Raises:
        UserError: They do not fit.
    """
    existing = folder.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{what} does not fit on the disk.",
            received=f"{needed / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free in {existing}",
            hint=f"free some space, or set {variable} to a folder on a larger disk",
        )
