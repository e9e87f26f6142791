"""Which images are in which global batch, where labelled and extra images share it."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness


class Passes:
    """An endless sequence of the positions of a set: pass after pass, each in an order of its own.

    Args:
        size: Images in the set.
        seed: Of the orders.
        purpose: Names the sequence, so that two of them are independent.
    """

    def __init__(self, size: int, *, seed: int, purpose: str) -> None:
        self._size = size
        self._seed = seed
        self._purpose = purpose
        self._kept: dict[int, Tensor] = {}

    def take(self, start: int, count: int) -> Tensor:
        """Returns ``count`` positions of the sequence from place ``start`` on."""
        size, end = self._size, start + count
        passes = range(start // size, (end - 1) // size + 1)
        return torch.cat([self._order(p)[max(0, start - p * size) : end - p * size] for p in passes])

    def _order(self, number: int) -> Tensor:
        if number not in self._kept:
            # One order at a time: of a large set it takes seconds and gigabytes to make.
            self._kept = {number: shuffled(self._size, self._seed, number, self._purpose)}
        return self._kept[number]


def shuffled(size: int, seed: int, number: int, purpose: str = "order") -> Tensor:
    """Returns the ``number``-th random order of ``size`` positions, ``(size,)`` int64."""
    everything = torch.arange(size)
    return Randomness(seed, number, everything).bits(purpose, ()).argsort(stable=True)


class Mixing:
    """Global batches of which a fixed share are extra images.

    Batch ``g``, counted over all epochs, holds the next labelled and the next extra images of two endless
    sequences. Extra images are spread evenly over the places of a batch, so that the parts of processes and
    of gradient accumulation have the same share, to within one image.

    Args:
        labelled: Labelled images.
        extra: Extra images; their positions follow the labelled ones.
        batch_size: Images in a global batch.
        share: Of each batch that is extra.
        seed: Of the orders.

    Attributes:
        extra_per_batch: Extra images in each global batch.
        label_weight: How much each label counts, so that the mean over a batch is that over its labelled
            images.

    Raises:
        UserError: A batch would have no labelled or no extra image, or the same one twice.
    """

    def __init__(self, labelled: int, extra: int, *, batch_size: int, share: float, seed: int) -> None:
        self.extra_per_batch = round(share * batch_size)
        if not 0 < self.extra_per_batch < batch_size:
            raise UserError(
                "Each batch needs labelled and extra images.",
                received=f"data.extra_share={share:g} of batches of {batch_size:,}",
                allowed=f"{1 / batch_size:.2g} to {1 - 1 / batch_size:.2g}",
            )
        if extra < self.extra_per_batch:
            raise UserError(
                "There are fewer extra images than each batch takes.",
                received=f"{extra:,} images, {self.extra_per_batch:,} in each batch of {batch_size:,}",
                hint=f"--set data.extra_share={extra / batch_size:.2g}",
            )
        self.label_weight = batch_size / (batch_size - self.extra_per_batch)
        self._first_extra = labelled
        self._labelled = Passes(labelled, seed=seed, purpose="order")
        self._extra = Passes(extra, seed=seed, purpose="extra order")
        so_far = torch.arange(batch_size + 1) * self.extra_per_batch // batch_size
        self._is_extra = so_far.diff() > 0

    def batch(self, number: int) -> Tensor:
        """Returns the positions of global batch ``number``, ``(batch_size,)``."""
        positions = torch.empty(len(self._is_extra), dtype=torch.int64)
        extra, labelled = self.extra_per_batch, len(positions) - self.extra_per_batch
        positions[self._is_extra] = self._extra.take(number * extra, extra) + self._first_extra
        positions[~self._is_extra] = self._labelled.take(number * labelled, labelled)
        return positions
