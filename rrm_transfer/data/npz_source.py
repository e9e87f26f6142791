"""Images in an ``.npz`` file, as the published sets of generated images have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.npz import NpzArray, read_npz
from rrm_transfer.data.parts import SourceParts
from rrm_transfer.data.tables import IMAGE_NAMES, LABEL_NAMES

FORM = (
    "an array 'image' of unsigned bytes, (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, or (N, H, W); "
    "beside it, for images with classes, 'label', (N,)"
)
_CHANNELS = (1, 3)


def load_npz(path: Path, *, labelled: bool) -> SourceParts:
    """Reads a file of images; as numpy's ``savez`` writes them they stay on the disk until they are wanted.

    Args:
        path: The file.
        labelled: Whether its labels are read; without, all images are of class 0.

    Raises:
        UserError: It is damaged, or holds something else.
    """
    arrays = {array.name: array for array in read_npz(path)}
    image = _choose(path, arrays, (*IMAGE_NAMES, "images"), "images")
    if image.dtype != np.uint8 or len(image.shape) not in (3, 4) or not image.nbytes:
        raise _unsuited(path, image)
    count = image.shape[0]
    labels = torch.zeros(count, dtype=torch.int64)
    if labelled:
        found = _choose(path, arrays, LABEL_NAMES, "labels")
        if found.dtype.kind not in "iu" or found.shape != (count,):
            raise _unsuited(path, found)
        labels = torch.from_numpy(found.read().astype(np.int64))
    pixels = _channels_first(torch.from_numpy(image.read()))
    if pixels is None:
        raise _unsuited(path, image)
    images = MemoryImages(pixels=pixels, labels=labels, identity=image.identity)
    return SourceParts(path.stem, str(path), {"train": images})


def _choose(path: Path, arrays: dict[str, NpzArray], names: tuple[str, ...], what: str) -> NpzArray:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise UserError(
        f"The npz file has no array that is known to hold the {what}.",
        received=f"{path}: {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}",
        allowed=FORM,
    )


def _channels_first(pixels: Tensor) -> Tensor | None:
    """Returns a view ``(N, C, H, W)``; None where there are not as many channels as pictures have."""
    if pixels.dim() == 3:
        return pixels[:, None]
    if pixels.shape[3] in _CHANNELS:
        return pixels.permute(0, 3, 1, 2)
    return pixels if pixels.shape[1] in _CHANNELS else None


def _unsuited(path: Path, array: NpzArray) -> UserError:
    return UserError(
        "The npz file holds something other than images.",
        received=f"{path}: {array.name}, {array.dtype}, {array.shape}",
        allowed=FORM,
    )
