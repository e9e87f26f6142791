"""Images as files hold them, and how one becomes pixels."""

from __future__ import annotations

import hashlib
import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.fit import Box

if TYPE_CHECKING:
    import pyarrow as pa

GREY_MODES = {"1", "L", "LA", "La"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


UNCOMPRESSED = {".bmp", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff"}
"""Suffixes of formats in which images of one size have files of one size."""

_LOOK = 1 << 12
"""Bytes that are looked at of either end of such a file."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is read, told by content. Pillow knows more: one of its formats starts a program."""

_PPM_HEADER = re.compile(rb"P\S{1,5}(\s+(#[^\r\n]*[\r\n]\s*)*[^\s#]+){2,3}\s")


class BrokenImageError(UserError):
    """An image is missing, damaged, or too large to be one."""


class EncodedImages(Protocol):
    """A part of a source, each image as its file's bytes or path.

    Attributes:
        identity: Changes when the images do.
    """

    identity: str

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> bytes | Path:
        """Returns the encoded image.

        Raises:
            BrokenImageError: There is none at this position.
        """

    def locate(self, position: int) -> str:
        """Returns where the image at ``position`` is, for messages."""


class FileImages:
    """Image files under one folder, as one index that workers share and processes send each other.

    Args:
        root: The folder.
        names: Of the files under it, with ``/`` between folders.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self._root = root
        joined, ends, sizes = bytearray(), array("q"), array("q")
        digest = hashlib.sha256()
        for number, name in enumerate(names):
            size, mark = _mark(root / name)
            digest.update(f"{chr(10) * (number > 0)}{name} {mark}".encode())
            joined += name.encode()
            ends.append(len(joined))
            sizes.append(size)
        self._joined, self._ends, self._sizes = bytes(joined), ends, sizes
        self.identity = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> Path:
        position = range(len(self))[position]
        start = self._ends[position - 1] if position else 0
        return self._root / self._joined[start : self._ends[position]].decode()

    def locate(self, position: int) -> str:
        return f"image {position}, {self[position]}"

    def require_found(self, positions: Iterable[int]) -> None:
        """Checks that files stand here as they were found, perhaps on another machine.

        Raises:
            UserError: One does not.
        """
        for position in positions:
            file, size = self[position], self._sizes[position]
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                raise UserError(
                    "A process does not see the images that the first one found.",
                    received=f"{file}: {'missing' if found is None else f'{found:,} bytes'}",
                    allowed=f"{size:,} bytes",
                    hint="the same files in the same folder on every machine",
                )


def _mark(file: Path) -> tuple[int, str]:
    """Returns a file's size, and what changes with its content: that, unless its format does not compress."""
    size = file.stat().st_size
    if file.suffix.lower() not in UNCOMPRESSED:
        return size, str(size)
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(_LOOK))
        stream.seek(max(0, size - _LOOK))
        digest.update(stream.read())
    return size, f"{size} {digest.hexdigest()[:16]}"


class ColumnImages:
    """A column of an Arrow table: bytes, or structs of bytes and path as Hugging Face writes them.

    Args:
        column: The column; it may be memory-mapped.
        origin: The part's name, for messages.
        identity: Changes when the column does.
        roots: Where the files lie that paths name; a table may not have others read.
    """

    def __init__(
        self, column: pa.ChunkedArray[Any], *, origin: str, identity: str, roots: Sequence[Path]
    ) -> None:
        self._column = column
        self._origin = origin
        self._roots = tuple(root.resolve() for root in roots)
        self.identity = identity

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, position: int) -> bytes | Path:
        value = self._column[position].as_py()
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, bytes):
            return data
        if isinstance(path, str) and (file := self._file(path)) is not None:
            return file
        raise BrokenImageError("There is no image where one should be.", received=self.locate(position))

    def _file(self, path: str) -> Path | None:
        for root in self._roots:
            with suppress(ValueError, OSError):  # a NUL, a name that is too long
                file = (root / path).resolve()
                if file.is_relative_to(root) and file.is_file():
                    return file
        return None

    def locate(self, position: int) -> str:
        return f"image {position} of {self._origin}"


def read_header(encoded: EncodedImages, position: int) -> tuple[int, tuple[int, int]]:
    """Returns an image's channels (1 or 3) and its (height, width) without decoding it.

    Raises:
        UserError: See ``decode``.
    """
    with _open(encoded, position) as image:
        return (1 if image.mode in GREY_MODES else 3), (image.height, image.width)


def decode(
    encoded: EncodedImages,
    position: int,
    *,
    channels: int,
    box: Callable[[int, int], Box] | None = None,
    size: int | None = None,
    draft: bool = False,
) -> npt.NDArray[np.uint8]:
    """Decodes an image, or a box of it.

    Args:
        encoded: The part of the source.
        position: In that part.
        channels: 1 or 3. Grey images become colour; the reverse would lose something and is refused.
        box: What to keep, as a function of the native (height, width); everything if None.
        size: Resizes the box to this square, bilinear and antialiased; None keeps its size.
        draft: Lets JPEG decode at a fraction of its resolution where the box stays at least ``size``:
            faster, not bit-equal.

    Returns:
        ``(C, H, W)`` uint8.

    Raises:
        BrokenImageError: The image is missing, damaged, or too large to be a picture.
        UserError: It is not of 8 bits, or in colour where the set is grey.
    """
    with _open(encoded, position) as image:
        if channels == 1 and image.mode not in GREY_MODES:
            raise UserError(
                "A colour image in a set whose other images are grey.",
                received=encoded.locate(position),
                hint="store all images of the set in the same mode",
            )
        width, height = image.size
        top, left, rows, columns = box(height, width) if box else (0, 0, height, width)
        if draft and size is not None:
            image.draft("L" if channels == 1 else "RGB", (width * size // columns, height * size // rows))
        with _reporting_damage(encoded, position):
            image.load()
        across, down = image.width / width, image.height / height  # below 1 after a draft
        edges = (left * across, top * down, (left + columns) * across, (top + rows) * down)
        picture = image.crop(edges) if box else image
        picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _open(encoded: EncodedImages, position: int) -> Iterator[Image.Image]:
    data = encoded[position]
    with ExitStack() as stack:
        with _reporting_damage(encoded, position):
            stream: IO[bytes] = io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
            stack.enter_context(stream)
            _require_short_header(stream)
            image = stack.enter_context(Image.open(stream, formats=FORMATS))
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
        if image.mode not in GREY_MODES | COLOUR_MODES:
            raise UserError(
                "Only images of 8 bits per channel are understood.",
                received=f"{encoded.locate(position)}: mode {image.mode}",
            )
        yield image


def _require_short_header(stream: IO[bytes]) -> None:
    """Refuses a PPM whose header goes on for ever: Pillow reads it byte by byte.

    Raises:
        ValueError: It is one.
    """
    head = stream.read(_LOOK)
    stream.seek(0)
    if head[:1] == b"P" and not _PPM_HEADER.match(head):
        raise ValueError("its header is no PPM's, or has no end")


@contextmanager
def _reporting_damage(encoded: EncodedImages, position: int) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise BrokenImageError(
            "An image is too large to be trusted.",
            received=encoded.locate(position),
            allowed=f"up to {Image.MAX_IMAGE_PIXELS:,} pixels",
        ) from error
    except UnidentifiedImageError as error:
        raise BrokenImageError(
            "An image cannot be read: it is of no format that is read here.",
            received=encoded.locate(position),
            allowed=", ".join(FORMATS),
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # what decoders raise on what is none of theirs; UserErrors arise outside
        raise BrokenImageError(
            f"An image cannot be read: {str(error) or type(error).__name__}.",
            received=encoded.locate(position),
        ) from error
