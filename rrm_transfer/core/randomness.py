"""Random numbers that depend on the sample, never on rank, batch size or call order.

Every number is a hash of (seed, epoch, sample index, purpose, position). A resumed run, a feature cache
and any number of processes therefore draw the same numbers for the same image.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def derive_seed(*parts: int | str) -> int:
    """Hashes ``parts`` to a 63-bit seed for generators that take one."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift_right(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) on int64, which wraps like uint64."""
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


@dataclass(frozen=True)
class Randomness:
    """The random numbers of one batch.

    Attributes:
        seed: The run's seed.
        epoch: The epoch, or the view of a feature cache.
        index: Sample indices in the data set, ``(B,)`` int64, on the device where numbers are wanted.
    """

    seed: int
    epoch: int
    index: Tensor

    def bits(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Returns hashed int64 of shape ``(B, *shape)``."""
        key = derive_seed(self.seed, self.epoch, purpose)
        sample = _mix(self.index.to(torch.int64) * _signed(_GOLDEN) + key)
        position = torch.arange(1, math.prod(shape) + 1, device=self.index.device) * _signed(_GOLDEN)
        return _mix(sample[:, None] + position[None]).view(-1, *shape)

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Returns float32 in [0, 1) of shape ``(B, *shape)``."""
        return _shift_right(self.bits(purpose, shape), 40).float() * 2.0**-24

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Returns float32 standard normal numbers of shape ``(B, *shape)`` (Box and Muller, 1958)."""
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(purpose + "/radius", shape)))
        return radius * torch.cos(2 * math.pi * self.uniform(purpose + "/angle", shape))

    def integers(self, purpose: str, high: int) -> Tensor:
        """Returns int64 in [0, high) of shape ``(B,)``."""
        return (self.uniform(purpose, ()) * high).long().clamp_(max=high - 1)
