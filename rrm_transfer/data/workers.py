"""Processes that decode images, and what is wrong when one of them ends."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler

from rrm_transfer.core.errors import UserError

T = TypeVar("T")

_ENDED = re.compile(r"DataLoader worker \(pid.*?(?:exited unexpectedly|killed by signal: [^.]*)")


def decoder(
    dataset: Dataset[T], schedule: Sampler[Any] | Iterable[Any], *, workers: int, ahead: int, **options: Any
) -> DataLoader[T]:
    """Returns what makes the items of a schedule, in its order, in processes of their own.

    Args:
        dataset: Makes an item.
        schedule: What it is asked for.
        workers: How many processes; 0 makes the items here.
        ahead: Items that each process has ready.
        options: Further ones of ``DataLoader``.
    """
    # Forked workers share the table of images; elsewhere each would get a copy.
    fork = workers and "fork" in multiprocessing.get_all_start_methods()
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=schedule,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        multiprocessing_context="fork" if fork else None,
        **options,
    )


def _as_it_is(item: T) -> T:
    return item


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
