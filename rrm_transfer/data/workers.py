"""Processes that decode images, and what is wrong when one of them ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rrm_transfer.core.errors import UserError

_ENDED = re.compile(r"DataLoader worker \(pid.*?(?:exited unexpectedly|killed by signal: [^.]*)")


@contextmanager
def explaining_workers(
    hint: str = "--resume with fewer data.workers; --set data.workers=0 needs none",
) -> Iterator[None]:
    """Tells of a worker that ended, wherever the block is: the system says so by a signal.

    Args:
        hint: What to do then.

    Raises:
        UserError: One ended.
    """
    try:
        yield
    except RuntimeError as error:
        ended = _ENDED.search(str(error))
        if ended is None:
            raise
        raise UserError(
            "A process that decodes images was ended from outside, as happens when memory runs out.",
            received=ended[0],
            hint=hint,
        ) from error
