"""Several sets of images as one: the labelled ones first, then those that are trained on beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from rrm_transfer.core.devices import send
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.framing import PREFETCH, Fitted, Frame, Reader
from rrm_transfer.data.images import ImageSet, LazyImages

ID_STRIDE = 1 << 40
"""Between the first ids of two sets, so that no id depends on the size of another set."""


class JoinedImages:
    """Sets of images in which positions go on from each set to the next.

    The first set says how large and in which colours a batch is; images of the others are fitted to the same
    size by the rule that suits their own, and made grey or coloured.

    Args:
        sets: In order, one at least.

    Attributes:
        sets: In order.
        index: Stable ids, ``(N,)`` int64; those of the k-th set begin at ``k * ID_STRIDE``.
        labels: Class indices, ``(N,)`` int64.
    """

    def __init__(self, sets: Sequence[ImageSet]) -> None:
        self.sets = tuple(sets)
        self.index = torch.cat([images.index + k * ID_STRIDE for k, images in enumerate(self.sets)])
        self.labels = torch.cat([images.labels for images in self.sets])
        self._starts = list(accumulate((len(images) for images in self.sets), initial=0))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.sets[0].channels

    @property
    def lazy_sets(self) -> int:
        """How many of the sets are decoded on access."""
        return sum(isinstance(images, LazyImages) for images in self.sets)

    @cached_property
    def fingerprint(self) -> str:
        """The identity of all content: 64 hexadecimal digits; of a single set it is its own."""
        if len(self.sets) == 1:
            return self.sets[0].fingerprint
        return hashlib.sha256(" ".join(images.fingerprint for images in self.sets).encode()).hexdigest()

    def workers_each(self, workers: int) -> int:
        """Returns how many of the processes that decode there are for each set that needs them."""
        return max(1, workers // max(1, self.lazy_sets)) if workers else 0

    def prefetched(self, workers: int) -> int:
        """Returns how many batches other processes decode ahead; 0 where all sets are in memory."""
        return PREFETCH * self.workers_each(workers) if self.lazy_sets else 0

    def readers(self, *, device: torch.device, workers: int) -> list[Reader]:
        """Returns what reads the sets, in their order.

        Args:
            device: Where the pixels go.
            workers: Processes that decode images not in memory, shared by the sets that need them.
        """
        each = self.workers_each(workers)
        return [Reader(images, device=device, workers=each, substitute=True) for images in self.sets]

    def fitted(self, parts: Sequence[Tensor], frame: Frame, *, readers: Sequence[Reader]) -> Iterator[Fitted]:
        """Yields each part's pixels, as ``Reader`` does for one set.

        Args:
            parts: Positions, one tensor ``(B,)`` for each batch.
            frame: What to keep of each image; its rule is that of the first set.
            readers: Of the sets.
        """
        streams = []
        for k, (images, reader) in enumerate(zip(self.sets, readers, strict=True)):
            own = [part[self._members(part, k)] - self._starts[k] for part in parts]
            fit = choose_fit(images.size, frame.fit.size) if k else frame.fit
            streams.append(
                reader.batches(
                    [positions for positions in own if len(positions)],
                    replace(frame, fit=fit, first_id=k * ID_STRIDE),
                )
            )
        if len(streams) == 1:
            return streams[0]
        return self._woven(parts, streams)

    def _woven(self, parts: Sequence[Tensor], streams: Sequence[Iterator[Fitted]]) -> Iterator[Fitted]:
        for part in parts:
            positions, pixels = part.clone(), None
            for k, stream in enumerate(streams):
                places = self._members(part, k)
                if not len(places):
                    continue
                found, own = next(stream)
                own = in_channels(own, self.channels)
                if pixels is None:
                    pixels = own.new_empty(len(part), *own.shape[1:])
                positions[places] = found + self._starts[k]
                pixels[send(places, own.device)] = own
            assert pixels is not None
            yield Fitted(positions, pixels)

    def _members(self, part: Tensor, k: int) -> Tensor:
        """Returns where in ``part`` images of the k-th set stand."""
        return ((part >= self._starts[k]) & (part < self._starts[k + 1])).nonzero().flatten()


def in_channels(pixels: Tensor, channels: int) -> Tensor:
    """Returns ``(B, 1 or 3, H, W)`` uint8 with as many channels as asked for; grey is ITU-R 601-2 luma."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    # Pillow's integers, so that an image is as grey as if its file had been converted.
    red, green, blue = pixels.int().unbind(1)
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma.to(torch.uint8)[:, None]
