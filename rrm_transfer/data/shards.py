"""Parquet files of encoded images and class indices, as the datasets library writes them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rrm_transfer.core.files import replacing_file
from rrm_transfer.data.encoded import EncodedImages, decode
from rrm_transfer.data.images import ImageSet, LazyImages, MemoryImages

JPEG_QUALITY = 95


def shard_name(part: str, number: int, count: int) -> str:
    """Returns the name of one of ``count`` files, from which any reader knows the part."""
    return f"{part}-{number:05d}-of-{count:05d}.parquet"


def write_shard(
    file: Path,
    images: Sequence[bytes],
    labels: Sequence[int],
    *,
    class_names: Sequence[str] | None,
    facts: Mapping[bytes, bytes],
) -> None:
    """Writes a file, whole or not at all; a checksum stands with every page.

    Args:
        file: Where.
        images: Encoded.
        labels: Their class indices.
        class_names: In the order of the class indices, None where unknown.
        facts: Kept in the file's metadata.
    """
    import datasets

    label = datasets.ClassLabel(names=list(class_names)) if class_names else datasets.Value("int64")
    schema = datasets.Features({"image": datasets.Image(), "label": label}).arrow_schema
    rows = {"image": [{"bytes": image, "path": None} for image in images], "label": list(labels)}
    table = pa.Table.from_pydict(rows, schema=schema)
    table = table.replace_schema_metadata({**(schema.metadata or {}), **facts})
    with replacing_file(file) as temporary:
        # What is encoded does not compress, and hardly repeats.
        pq.write_table(table, temporary, compression="none", use_dictionary=False, write_page_checksum=True)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encodes an image without loss.

    Args:
        pixels: ``(C, H, W)`` uint8 with one or three channels.
    """
    return _saved(_picture(pixels), "PNG")


def encoded_small(images: ImageSet, position: int, side: int) -> bytes:
    """Returns an image as a file that decodes fast.

    Args:
        images: The set.
        position: In the set.
        side: Of the shorter side, in pixels. A larger image is resized, bilinear and antialiased, and encoded
            as JPEG; another one is kept as its file, or without loss where there is none.

    Raises:
        UserError: See ``decode``.
    """
    stored, pixels = _read(images, position)
    picture = _picture(pixels)
    shorter = min(picture.size)
    if shorter <= side:
        return png(pixels) if stored is None else stored
    width, height = (round(length * side / shorter) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return _saved(picture, "JPEG", quality=JPEG_QUALITY)


def locate(images: ImageSet, position: int) -> str:
    """Returns where the image at ``position`` of a set is, for messages."""
    place = int(images.index[position])
    return images.encoded.locate(place) if isinstance(images, LazyImages) else f"image {place}"


def _read(images: ImageSet, position: int) -> tuple[bytes | None, npt.NDArray[np.uint8]]:
    """Returns an image's file, where it has one, and its pixels ``(C, H, W)``."""
    if isinstance(images, MemoryImages):
        return None, images.pixels[position].numpy()
    if not isinstance(images, LazyImages):
        raise TypeError(f"not a known kind of image set: {type(images).__name__}")
    place = int(images.index[position])
    pixels = decode(images.encoded, place, channels=images.channels)
    return _file(images.encoded, place), pixels


def _file(encoded: EncodedImages, position: int) -> bytes:
    data = encoded[position]
    return data if isinstance(data, bytes) else data.read_bytes()


def _picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _saved(picture: Image.Image, form: str, **options: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()
