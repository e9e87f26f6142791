"""Whole parts of a source as image sets: decoded once where they are small, on access otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.encoded import BrokenImageError, EncodedImages, decode, read_header
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages

MEMORY_LIMIT = 4 << 30
"""Bytes of decoded pixels up to which images of one size are held in memory."""

SURVEYED = 256
"""Headers read of each part to learn whether its images are grey and of one size."""

CHUNK = 256


class EncodedPart(NamedTuple):
    """A part as it is stored.

    Attributes:
        encoded: The images.
        labels: Class indices, ``(N,)`` int64.
    """

    encoded: EncodedImages
    labels: Tensor


def image_sets(parts: Mapping[str, EncodedPart], broken: BrokenImages) -> dict[str, ImageSet]:
    """Makes image sets that share channels and, where all images agree, size.

    Args:
        parts: As they are stored.
        broken: Counts the images that cannot be read. Sets held in memory are without them.

    Raises:
        UserError: There are too many of them, or all are.
    """
    channels, size = _survey([part.encoded for part in parts.values()])
    count = sum(len(part.labels) for part in parts.values())
    if size is not None and count * channels * size[0] * size[1] <= MEMORY_LIMIT:
        try:
            return {name: _in_memory(part, channels, size, broken) for name, part in parts.items()}
        except _SizesDifferError:
            size = None
    return {
        name: LazyImages(
            encoded=part.encoded, labels=part.labels, channels=channels, size=size, broken=broken
        )
        for name, part in parts.items()
    }


class _SizesDifferError(Exception):
    pass


def surveyed(count: int) -> list[int]:
    """Returns the positions of some of ``count`` images, evenly apart."""
    return np.unique(np.linspace(0, count - 1, SURVEYED).astype(int)).tolist() if count else []


def _survey(parts: list[EncodedImages]) -> tuple[int, tuple[int, int] | None]:
    headers, problems = [], {}
    for encoded in parts:
        for position in surveyed(len(encoded)):
            try:
                headers.append(read_header(encoded, position))
            except BrokenImageError as error:  # counted when it is decoded
                problems[encoded.locate(position)] = error
    if not headers:
        BrokenImages().add(problems)
    sizes = {size for _, size in headers}
    return max((channels for channels, _ in headers), default=3), sizes.pop() if len(sizes) == 1 else None


def _in_memory(part: EncodedPart, channels: int, size: tuple[int, int], broken: BrokenImages) -> MemoryImages:
    pixels, problems = _decode_all(part.encoded, channels, size)
    broken.add({part.encoded.locate(position): error for position, error in problems.items()})
    if not problems:
        return MemoryImages(pixels=pixels, labels=part.labels)
    whole = torch.tensor([position for position in range(len(pixels)) if position not in problems])
    return MemoryImages(pixels=pixels[whole], labels=part.labels[whole], index=whole)


def _decode_all(
    encoded: EncodedImages, channels: int, size: tuple[int, int]
) -> tuple[Tensor, dict[int, BrokenImageError]]:
    pixels = np.empty((len(encoded), channels, *size), dtype=np.uint8)
    problems: dict[int, BrokenImageError] = {}

    def fill(start: int) -> None:
        for position in range(start, min(start + CHUNK, len(encoded))):
            try:
                image: npt.NDArray[np.uint8] = decode(encoded, position, channels=channels)
            except BrokenImageError as error:
                problems[position] = error
                continue
            if image.shape != pixels.shape[1:]:
                raise _SizesDifferError
            pixels[position] = image

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pending = [pool.submit(fill, start) for start in range(0, len(encoded), CHUNK)]
        try:
            for chunk in pending:
                chunk.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return torch.from_numpy(pixels), dict(sorted(problems.items()))
