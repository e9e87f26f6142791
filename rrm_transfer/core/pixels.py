"""Pixel space: batches are floats in [0, 1], and every model normalizes for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as in Pillow."""

_LARGEST = 1e4
"""Of a mean or a standard deviation of pixels in [0, 1]; beyond it float32 has no digits left for them."""


@dataclass(frozen=True)
class PixelStatistics:
    """The mean and standard deviation that a model expects, one of each per channel, in pixel units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        values = (*self.mean, *self.std)
        sound = all(not isinstance(v, bool) and math.isfinite(v) and abs(v) <= _LARGEST for v in values)
        sound = sound and all(s >= 1 / _LARGEST for s in self.std)
        if len(self.mean) != len(self.std) or not self.mean or not sound:
            raise ValueError(f"not pixel statistics: mean {self.mean}, std {self.std}")

    def for_channels(self, channels: int) -> PixelStatistics:
        """Returns the statistics for another channel count: a scalar repeats, colour is averaged."""
        if len(self.mean) == channels:
            return self
        if len(self.mean) == 1:
            return PixelStatistics(self.mean * channels, self.std * channels)
        mean = sum(self.mean) / len(self.mean)
        std = sum(self.std) / len(self.std)
        return PixelStatistics((mean,) * channels, (std,) * channels)

    def __str__(self) -> str:
        for name, statistics in NAMED_STATISTICS.items():
            if statistics == self:
                return name
        return ",".join(f"{m:g}" for m in self.mean) + "/" + ",".join(f"{s:g}" for s in self.std)


NAMED_STATISTICS = {
    "none": PixelStatistics((0.0,), (1.0,)),
    "imagenet": PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": PixelStatistics((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def parse_statistics(text: str) -> PixelStatistics:
    """Reads ``none``, ``imagenet``, ``cifar10`` or ``mean/std`` with one or three values each.

    Raises:
        UserError: It is none of these.
    """
    if text in NAMED_STATISTICS:
        return NAMED_STATISTICS[text]
    mean, slash, std = text.partition("/")
    try:
        if not slash:
            raise ValueError("no slash")
        return PixelStatistics(
            tuple(float(v) for v in mean.split(",")), tuple(float(v) for v in std.split(","))
        )
    except ValueError:
        raise UserError(
            "Not a normalization.",
            received=text,
            allowed="none, imagenet, cifar10, or mean/std such as 0.5,0.5,0.5/0.25,0.25,0.25",
        ) from None


class Normalize(nn.Module):
    """Subtracts the mean and divides by the standard deviation.

    Its statistics are not part of the state dict: they belong to the model's configuration.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: PixelStatistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.register_buffer("mean", torch.tensor(statistics.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(statistics.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
