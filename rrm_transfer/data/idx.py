"""The idx format of MNIST and its successors: a magic number, the dimensions, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rrm_transfer.core.errors import UserError

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_RATIO = 1032
"""Of deflate: no gzip file unpacks to more, as its format has it."""
FILE_NAME = re.compile(r"(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx\d-ubyte(\.gz)?$")


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """Reads one idx file, plain or gzip-compressed.

    Args:
        path: The file.
        dimensions: How many the array must have: 3 for images, 1 for labels.

    Returns:
        A read-only array.

    Raises:
        UserError: It is not such a file, or it is damaged.
    """
    with open(path, "rb") as raw:
        compressed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        try:
            with gzip.open(raw) if compressed else raw as stream:
                header = stream.read(4 + 4 * dimensions)
                if header[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)) or len(header) < 4 + 4 * dimensions:
                    raise UserError(
                        f"Not an idx file of unsigned bytes with {dimensions} dimension(s).", received=path
                    )
                shape = struct.unpack(f">{dimensions}I", header[4:])
                expected = math.prod(shape)
                _require_plausible(expected, path, compressed=compressed)
                # One byte more than expected tells a surplus without unpacking whatever follows.
                content = stream.read(expected + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"The idx file is damaged: {error}.", received=path) from error
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content):,}"
        raise UserError(
            f"The idx file is damaged: its header announces {expected:,} bytes, {found} follow.",
            received=path,
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _require_plausible(announced: int, path: Path, *, compressed: bool) -> None:
    """Refuses a header before memory is taken for what it announces."""
    size = path.stat().st_size
    if announced > size * (_LARGEST_RATIO if compressed else 1):
        raise UserError(
            f"The idx file is damaged: its header announces {announced:,} bytes, more than it can hold.",
            received=f"{path}, {size:,} bytes",
        )


def encode_idx(array: npt.NDArray[np.uint8]) -> bytes:
    """Returns ``array`` as a gzip-compressed idx file that carries no time."""
    header = bytes((0, 0, UNSIGNED_BYTE, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0)


class IdxPart(NamedTuple):
    """The two files of one part."""

    images: Path
    labels: Path


def find_idx_parts(folder: Path) -> dict[str, IdxPart]:
    """Returns the parts ``train`` and ``test`` (also called t10k) of an idx folder, as far as they exist.

    Raises:
        UserError: A part lacks a file or has several candidates for it.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        match = FILE_NAME.search(path.name)
        if match and path.is_file():
            part = "train" if match["part"] == "train" else "test"
            found.setdefault(part, {}).setdefault(match["kind"], []).append(path)
    parts = {}
    for part, kinds in found.items():
        for kind in ("images", "labels"):
            names = ", ".join(path.name for path in kinds.get(kind, []))
            # One set often lies there twice, packed and unpacked; the plain file is as good.
            kinds[kind] = [
                path
                for path in kinds.get(kind, [])
                if path.suffix != ".gz" or path.with_suffix("") not in kinds[kind]
            ]
            if len(kinds[kind]) != 1:
                raise UserError(
                    f"An idx folder needs exactly one file with the {kind} of its {part} part.",
                    received=f"{folder}: {names or 'none'}",
                    allowed="names such as train-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte",
                )
        parts[part] = IdxPart(kinds["images"][0], kinds["labels"][0])
    return parts


def find_idx_images(path: Path) -> Path:
    """Returns the file with the images to train on: ``path`` itself, or one of the folder ``path``.

    Raises:
        UserError: The folder has none, or several.
    """
    if path.is_file():
        return path
    found = [
        child
        for child in sorted(path.iterdir())
        if (match := FILE_NAME.search(child.name)) and match["part"] == "train" and match["kind"] == "images"
    ]
    plain = [child for child in found if child.suffix != ".gz" or child.with_suffix("") not in found]
    if len(plain) != 1:
        raise UserError(
            "An idx folder needs exactly one file with images to train on.",
            received=f"{path}: {', '.join(child.name for child in plain) or 'none'}",
            allowed="a name such as train-images-idx3-ubyte.gz",
        )
    return plain[0]


def is_idx(path: Path) -> bool:
    """Tells by names whether ``path`` is an idx file or a folder of such."""
    return any(FILE_NAME.search(child.name) for child in ([path] if path.is_file() else path.iterdir()))


def read_idx_part(part: IdxPart) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns images ``(N, H, W)`` and labels ``(N,)``.

    Raises:
        UserError: A file is damaged or their counts differ.
    """
    images, labels = read_idx(part.images, dimensions=3), read_idx(part.labels, dimensions=1)
    if len(images) != len(labels):
        raise UserError(
            "Images and labels differ in number.",
            received=f"{len(images):,} in {part.images.name}, {len(labels):,} in {part.labels.name}",
        )
    return images, labels
