"""Small images and the files that hold them."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rrm_transfer.data.encoded import FileImages
from rrm_transfer.data.images import MemoryImages

Pixels = npt.NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def memory_images(count: int = 40, channels: int = 3, size: int = 32, classes: int = 4) -> MemoryImages:
    return MemoryImages(
        pixels=torch.from_numpy(noise(count, channels, size, size)), labels=torch.arange(count) % classes
    )


def encode(pixels: Pixels, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def idx_bytes(array: Pixels) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_folder(folder: Path, *, train: int = 40, test: int = 8, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 4).astype(np.uint8)
        for kind, array in (("images-idx3", noise(count, 28, 28)), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{prefix}-{kind}-ubyte" + (".gz" if packed else "")
            (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return folder


def write_class_folders(
    folder: Path, classes: Sequence[str] = ("ant", "bee"), *, count: int = 5, size: tuple[int, int] = (20, 20)
) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for image in range(count):
            pixels = noise(*size, 3, seed=100 * number + image)
            (folder / name / f"{image}.png").write_bytes(encode(pixels))
    return folder


def file_images(folder: Path, files: Sequence[Path]) -> FileImages:
    return FileImages(folder, [file.relative_to(folder).as_posix() for file in files])
