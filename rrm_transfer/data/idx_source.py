"""Data sets in the idx format: MNIST, its successors, and the embedded one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rrm_transfer.data import fashion_mnist_mini
from rrm_transfer.data.idx import find_idx_images, find_idx_parts, read_idx, read_idx_part
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.parts import SourceParts

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_LABELS = {
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": "fashion-mnist",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": "fashion-mnist",
    "2c02745d4ad8b4511333d0eca662ac5664a371860abaa4588b1670e7be59fbdf": fashion_mnist_mini.NAME,
    "b2095bc797d1201e84da76c94012c02d0e6f07af0938df4e00120a3b42d1aa4c": fashion_mnist_mini.NAME,
}
"""SHA-256 of the labels alone, for the training and test part of either set: an idx file names nothing, and
all sets of this family use the same file names."""


def load_idx_folder(folder: Path) -> SourceParts:
    """Reads a folder of idx files; classes have names where the labels are exactly Fashion-MNIST's.

    Raises:
        UserError: A file is missing, ambiguous or damaged.
    """
    images = {}
    known = set()
    for part, files in find_idx_parts(folder).items():
        pixels, labels = read_idx_part(files)
        known.add(FASHION_MNIST_LABELS.get(hashlib.sha256(labels.tobytes()).hexdigest()))
        images[part] = MemoryImages(
            pixels=torch.from_numpy(pixels.copy())[:, None],
            labels=torch.from_numpy(labels.astype(np.int64)),
        )
    name = known.pop() if len(known) == 1 else None
    if name is None:
        return SourceParts(folder.resolve().name, str(folder), images)
    return SourceParts(name, str(folder), images, class_names=FASHION_MNIST_CLASSES, license="MIT")


def load_idx_images(path: Path) -> SourceParts:
    """Reads images alone: those of an idx file, or the training part of an idx folder.

    Raises:
        UserError: There is no such file, or it is damaged.
    """
    pixels = torch.from_numpy(read_idx(find_idx_images(path), dimensions=3).copy())[:, None]
    images = MemoryImages(pixels=pixels, labels=torch.zeros(len(pixels), dtype=torch.int64))
    return SourceParts(path.resolve().name, str(path), {"train": images})


def load_fashion_mnist_mini() -> SourceParts:
    """Reads the embedded data set."""
    parts = load_idx_folder(fashion_mnist_mini.FOLDER)
    return replace(parts, source="embedded, a subset of Fashion-MNIST (Zalando SE)")
