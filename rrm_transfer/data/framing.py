"""From stored images to fitted uint8 batches: the deterministic part and the random resized crop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from rrm_transfer.core.devices import send
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.augment import draw_boxes, random_box
from rrm_transfer.data.encoded import BrokenImageError, decode
from rrm_transfer.data.fit import Box, Fit, resize
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages
from rrm_transfer.data.workers import decoder, explaining_workers

PREFETCH = 2
"""Batches that each decoding process makes ahead."""


@dataclass(frozen=True)
class Frame:
    """Which part of each image becomes the network's input.

    Attributes:
        fit: The rule, which also holds the input's size.
        random_area: Range of a random resized crop's area, as fractions; None applies the rule.
        seed: Of the random crop.
        view: Of the random crop.
        first_id: Added to the ids that key the random crop.
    """

    fit: Fit
    random_area: tuple[float, float] | None = None
    seed: int = 0
    view: int = 0
    first_id: int = 0

    def boxes(self, ids: Tensor) -> list[Callable[[int, int], Box]]:
        """Returns for each id how its box follows from the native (height, width)."""
        if self.random_area is None:
            return [self.fit.box] * len(ids)
        draws = draw_boxes(Randomness(self.seed, self.view, ids + self.first_id))
        return [partial(random_box, draw, self.random_area) for draw in draws]


class Fitted(NamedTuple):
    """A batch of pixels.

    Attributes:
        positions: In the set, ``(B,)`` int64.
        pixels: ``(B, C, size, size)`` uint8.
    """

    positions: Tensor
    pixels: Tensor


class Reader:
    """Reads batches of one set; the processes that decode it stay for the batches to come.

    Args:
        images: The set.
        device: Where the pixels go.
        workers: Processes that decode images not in memory; 0 decodes here.
        substitute: Whether the next image of the set takes the place of one that cannot be read, as far as
            the set allows.
    """

    def __init__(
        self, images: ImageSet, *, device: torch.device, workers: int, substitute: bool = False
    ) -> None:
        self._images = images
        self._device = device
        self._workers = workers
        self._substitute = substitute
        self._schedule = _Schedule()
        self._served = object()

    def batches(self, parts: Sequence[Tensor], frame: Frame) -> Iterator[Fitted]:
        """Yields each part's pixels on the device.

        Args:
            parts: Positions in the set, one tensor ``(B,)`` for each batch.
            frame: What to keep of each image.

        Raises:
            UserError: Too many images are broken, one does not suit the rule, or a worker ended.
        """
        if isinstance(self._images, MemoryImages):
            return _from_memory(self._images, parts, frame, self._device)
        return self._decoded(parts, frame)

    def _decoded(self, parts: Sequence[Tensor], frame: Frame) -> Iterator[Fitted]:
        done = 0
        while done < len(parts):
            # The processes have one schedule: whoever was interrupted by another reading goes on with what
            # is left of its own.
            self._schedule.parts, self._schedule.frame = parts[done:], frame
            self._served = served = object()
            with explaining_workers():
                for batch in self._decoder:
                    if isinstance(batch, UserError):
                        raise batch
                    positions, pixels, problems = batch
                    self._lazy.broken.add(problems)
                    moved = torch.as_tensor(pixels).to(self._device, non_blocking=True)
                    yield Fitted(torch.tensor(positions), moved)
                    done += 1
                    if self._served is not served:
                        break

    @property
    def _lazy(self) -> LazyImages:
        if not isinstance(self._images, LazyImages):
            raise TypeError(f"not a known kind of image set: {type(self._images).__name__}")
        return self._images

    @cached_property
    def _decoder(self) -> DataLoader[_Decoded | UserError]:
        images, workers = self._lazy, self._workers
        return decoder(
            _DecodedBatches(images, images.broken.limit if self._substitute else 0),
            self._schedule,
            workers=workers,
            ahead=PREFETCH,
            persistent_workers=workers > 0,
            pin_memory=self._device.type == "cuda",
        )


class _Schedule(Sampler[Any]):
    """What is to be decoded next.

    Attributes:
        parts: Positions, one tensor ``(B,)`` for each batch.
        frame: What to keep of each image.
    """

    parts: Sequence[Tensor]
    frame: Frame

    def __iter__(self) -> Iterator[tuple[list[int], Frame]]:
        # Not as tensors, each of which would go to a worker through shared memory.
        return ((part.tolist(), self.frame) for part in self.parts)


def _from_memory(
    images: MemoryImages, parts: Sequence[Tensor], frame: Frame, device: torch.device
) -> Iterator[Fitted]:
    pixels = images.pixels_for(device)
    for positions in parts:
        chosen = send(pixels[send(positions, pixels.device)], device)
        if frame.random_area is None:
            yield Fitted(positions, frame.fit.apply(chosen))
        else:
            boxes = (box(*chosen.shape[2:]) for box in frame.boxes(images.index[positions]))
            cut = [
                resize(image[None, :, top : top + rows, left : left + columns], frame.fit.size)
                for image, (top, left, rows, columns) in zip(chosen, boxes, strict=True)
            ]
            yield Fitted(positions, torch.cat(cut))


_Problems = dict[str, BrokenImageError]
_Decoded = tuple[list[int], Tensor | npt.NDArray[np.uint8], _Problems]


def _collate(images: list[Tensor]) -> Tensor | npt.NDArray[np.uint8]:
    """Joins images; those of a worker in shared memory, where there is room for them.

    Left to the loader, a failure would lose the batch, and the run would wait for it for ever.
    """
    try:
        joined: Tensor = default_collate(images)
    except RuntimeError:
        return torch.stack(images).numpy()  # goes through a pipe, which takes longer
    return joined


class _DecodedBatches(Dataset[_Decoded | UserError]):
    """Whole batches as items, so that a worker makes one at a time.

    A mistake in the data is returned: raised, it would reach the caller as a worker's traceback.
    """

    def __init__(self, images: LazyImages, substitutes: int) -> None:
        self._images = images
        self._substitutes = substitutes

    def __getitem__(self, scheduled: tuple[list[int], Frame]) -> _Decoded | UserError:
        part, frame = scheduled
        problems: _Problems = {}
        read = []
        try:
            for position, box in zip(part, frame.boxes(self._images.index[part]), strict=True):
                read.append(self._read_or_substitute(position, box, frame, problems))
        except UserError as error:
            return error
        positions, images = map(list, zip(*read, strict=True))
        return positions, _collate(images), problems

    def _read_or_substitute(
        self, position: int, box: Callable[[int, int], Box], frame: Frame, problems: _Problems
    ) -> tuple[int, Tensor]:
        """Returns the first image from ``position`` on that can be read, and where it is."""
        index = self._images.index
        for left in range(self._substitutes, -1, -1):
            try:
                return position, self._read(int(index[position]), box, frame)
            except BrokenImageError as error:
                if not left:
                    raise
                problems[self._images.encoded.locate(int(index[position]))] = error
            position = (position + 1) % len(index)
            [box] = frame.boxes(index[position : position + 1])
        raise AssertionError("unreachable")

    def _read(self, position: int, box: Callable[[int, int], Box], frame: Frame) -> Tensor:
        fit, cropped = frame.fit, frame.random_area is not None
        whole = fit.rule == "pad" and not cropped
        pixels = decode(
            self._images.encoded,
            position,
            channels=self._images.channels,
            box=box,
            size=None if whole else fit.size,
            draft=cropped,
        )
        image = torch.from_numpy(pixels)
        return fit.apply(image[None])[0] if whole else image
