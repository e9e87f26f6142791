"""Code that a stranger's recipe names."""

from __future__ import annotations

from rrm_transfer.core.errors import UserError


def factory() -> None:
    raise UserError("the intruder was called")
