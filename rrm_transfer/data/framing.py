"""From stored images to fitted uint8 batches: the deterministic part and the random resized crop."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.augment import draw_boxes, random_box
from rrm_transfer.data.encoded import decode
from rrm_transfer.data.fit import Box, Fit, resize
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages


@dataclass(frozen=True)
class Frame:
    """Which part of each image becomes the network's input.

    Attributes:
        fit: The rule, which also holds the input's size.
        random_area: Range of a random resized crop's area, as fractions; None applies the rule.
        seed: Of the random crop.
        view: Of the random crop.
    """

    fit: Fit
    random_area: tuple[float, float] | None = None
    seed: int = 0
    view: int = 0

    def boxes(self, ids: Tensor) -> list[Callable[[int, int], Box]]:
        """Returns for each id how its box follows from the native (height, width)."""
        if self.random_area is None:
            return [self.fit.box] * len(ids)
        draws = draw_boxes(Randomness(self.seed, self.view, ids))
        return [partial(random_box, draw, self.random_area) for draw in draws]


def fitted_batches(
    images: ImageSet, parts: Sequence[Tensor], frame: Frame, *, device: torch.device, workers: int
) -> Iterator[Tensor]:
    """Yields ``(B, C, size, size)`` uint8 on ``device`` for each part.

    Args:
        images: The set.
        parts: Positions in the set, one tensor ``(B,)`` for each batch.
        frame: What to keep of each image.
        device: Where the pixels go.
        workers: Processes that decode images not in memory; 0 decodes here.

    Raises:
        UserError: An image is broken or does not suit the rule.
    """
    if isinstance(images, MemoryImages):
        return _from_memory(images, parts, frame, device)
    if isinstance(images, LazyImages):
        return _decoded(images, parts, frame, device, workers)
    raise TypeError(f"not a known kind of image set: {type(images).__name__}")


def _from_memory(
    images: MemoryImages, parts: Sequence[Tensor], frame: Frame, device: torch.device
) -> Iterator[Tensor]:
    pixels = images.pixels_for(device)
    for positions in parts:
        chosen = pixels[positions.to(pixels.device)].to(device)
        if frame.random_area is None:
            yield frame.fit.apply(chosen)
        else:
            boxes = (box(*chosen.shape[2:]) for box in frame.boxes(images.index[positions]))
            cut = [
                resize(image[None, :, top : top + rows, left : left + columns], frame.fit.size)
                for image, (top, left, rows, columns) in zip(chosen, boxes, strict=True)
            ]
            yield torch.cat(cut)


def _decoded(
    images: LazyImages, parts: Sequence[Tensor], frame: Frame, device: torch.device, workers: int
) -> Iterator[Tensor]:
    # Forked workers share the table of images; elsewhere each would get a copy.
    fork = workers and "fork" in multiprocessing.get_all_start_methods()
    loader = DataLoader(
        _DecodedBatches(images, parts, frame),
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if fork else None,
    )
    for pixels in loader:
        if isinstance(pixels, UserError):
            raise pixels
        yield pixels.to(device, non_blocking=True)


class _DecodedBatches(Dataset[Tensor | UserError]):
    """Whole batches as items, so that a worker makes one at a time.

    A mistake in the data is returned: raised, it would reach the caller as a worker's traceback.
    """

    def __init__(self, images: LazyImages, parts: Sequence[Tensor], frame: Frame) -> None:
        self._images = images
        self._parts = parts
        self._frame = frame

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, step: int) -> Tensor | UserError:
        ids = self._images.index[self._parts[step]]
        try:
            return torch.cat(
                [self._read(i, box) for i, box in zip(ids.tolist(), self._frame.boxes(ids), strict=True)]
            )
        except UserError as error:
            return error

    def _read(self, position: int, box: Callable[[int, int], Box]) -> Tensor:
        fit, cropped = self._frame.fit, self._frame.random_area is not None
        whole = fit.rule == "pad" and not cropped
        pixels = decode(
            self._images.encoded,
            position,
            channels=self._images.channels,
            box=box,
            size=None if whole else fit.size,
            draft=cropped,
        )
        image = torch.from_numpy(pixels)[None]
        return fit.apply(image) if whole else image
