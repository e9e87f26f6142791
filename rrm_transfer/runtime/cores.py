"""Which processor cores this process may use, and how many of them decode images."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: microseconds of computing in each period, or ``max``."""

MOST_DECODING = 16
"""They decode 8,000 images/s at 224 px, more than a GPU trains on; each holds batches in shared memory."""


def allowed_cores() -> set[int]:
    """Returns the cores that this process is bound to."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


class Cores(NamedTuple):
    """The cores of a process.

    Attributes:
        machine: That has them.
        allowed: That it is bound to; other processes may be, too.
        quota: How many of them it may keep busy, with the others of its container.
    """

    machine: str
    allowed: frozenset[int]
    quota: int

    @classmethod
    def of_this_process(cls) -> Cores:
        """Finds them out."""
        allowed = allowed_cores()
        return cls(socket.gethostname(), frozenset(allowed), min(len(allowed), _quota() or len(allowed)))


def decoding_workers(processes: Sequence[Cores]) -> int:
    """Returns how many processes should decode for each of a run's: its share of the cores, less its own.

    Args:
        processes: The cores of each process of the run.

    Returns:
        The same for all of them: what the one with the fewest has.
    """
    shares = []
    for own in processes:
        beside = [other for other in processes if other.machine == own.machine]
        sharing = sum(bool(other.allowed & own.allowed) for other in beside)
        shares.append(own.quota // sharing)
    return min(MOST_DECODING, max(0, min(shares) - 1))


def _quota() -> int | None:
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # none is set, or this is no such system
        return None
