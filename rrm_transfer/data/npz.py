"""Arrays in ``.npz`` files: mapped into memory where the file stores them as they are, never unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import cache_folder, replacing_file
from rrm_transfer.data.disk import require_space

LARGEST_RATIO = 1032
"""Of deflate: no file unpacks to more, as its format has it."""

UNPACKED_LIMIT = 4 << 30
"""Bytes up to which a compressed array is unpacked into memory; a larger one is unpacked once to the disk."""

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCAL_HEADER = 30
_PIECE = 1 << 24


@dataclass(frozen=True)
class NpzArray:
    """An array of an npz file; nothing but its header has been read.

    Attributes:
        file: The npz file.
        member: What zip says of it.
        shape: Of the array.
        dtype: Of its values, never of objects.
        header: Bytes before the first value.
    """

    file: Path
    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header: int

    @property
    def name(self) -> str:
        return self.member.filename.removesuffix(".npy")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def identity(self) -> str:
        """Changes with the array: zip keeps a checksum of it."""
        return f"{self.name} {self.dtype.str} {self.shape} {self.member.CRC:08x}"

    def read(self) -> npt.NDArray[Any]:
        """Returns the array: mapped into memory where the file holds it as it is, unpacked otherwise.

        Raises:
            UserError: It is damaged, or unpacked it does not fit on the disk.
        """
        if self.member.compress_type == zipfile.ZIP_STORED:
            return self._map(self.file, self._start())
        if self.nbytes <= UNPACKED_LIMIT:
            values = np.zeros(self.nbytes, dtype=np.uint8)
            for start, piece in self._pieces():
                values[start : start + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
            return values.view(self.dtype).reshape(self.shape)
        return self._map(self._unpacked(), 0)

    def _map(self, file: Path, offset: int) -> npt.NDArray[Any]:
        # Copy on write: torch refuses what it may not write to, and the file stays as it is.
        return np.memmap(file, self.dtype, mode="c", offset=offset, shape=self.shape)

    def _start(self) -> int:
        """Returns where in the file the first value is."""
        with self.file.open("rb") as stream:
            stream.seek(self.member.header_offset)
            local = stream.read(_LOCAL_HEADER)
        if len(local) < _LOCAL_HEADER or local[:4] != b"PK\x03\x04":
            raise _damaged(self.file, f"{self.name} is not where the file says")
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        start = self.member.header_offset + _LOCAL_HEADER + names + self.header
        if start + self.nbytes > self.file.stat().st_size:
            raise _damaged(self.file, f"{self.name} is cut short")
        return start

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yields the values piece by piece, each with where it begins."""
        with (
            _reporting_damage(self.file),
            zipfile.ZipFile(self.file) as archive,
            archive.open(self.member) as stream,
        ):
            stream.read(self.header)
            for start in range(0, self.nbytes, _PIECE):
                yield start, stream.read(min(_PIECE, self.nbytes - start))

    def _unpacked(self) -> Path:
        """Returns a file of the values alone, written where it is missing."""
        folder = cache_folder() / "images"
        # Without the array's name, which the file chooses.
        target = folder / f"{self.file.stem}-{self.nbytes}-{self.member.CRC:08x}.bytes"
        if not target.is_file() or target.stat().st_size != self.nbytes:
            require_space(
                self.nbytes, folder, what=f"An unpacked copy of {self.file}", variable="RRM_TRANSFER_CACHE"
            )
            with replacing_file(target) as temporary, temporary.open("wb") as unpacked:
                for _, piece in self._pieces():
                    unpacked.write(piece)
        return target


def read_npz(path: Path) -> list[NpzArray]:
    """Reads which arrays an npz file holds; nothing is unpickled, and no value is read.

    Raises:
        UserError: It is no npz file, it is damaged, or it holds arrays of objects.
    """
    with _reporting_damage(path), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if not members:
            raise UserError("The npz file holds no array.", received=path)
        return [_read_header(path, archive, member) for member in members]


def _read_header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NpzArray:
    where = f"{member.filename} in {path}"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError("The npz file is compressed in a way that numpy does not use.", received=where)
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _READERS:
            raise ValueError(f"{member.filename} is of format {version}")
        shape, fortran, dtype = _READERS[version](stream)
        header = stream.tell()
    if dtype.hasobject:
        raise UserError(
            "The npz file holds pickled objects, which are not read: they could run code.",
            received=where,
            allowed="arrays of numbers",
        )
    if fortran and len(shape) > 1:
        raise UserError(
            "The array is stored column by column, in which order single images cannot be read.",
            received=where,
            hint="numpy.savez(FILE, image=numpy.ascontiguousarray(images))",
        )
    found = NpzArray(path, member, shape, dtype, header)
    if member.file_size != header + found.nbytes:
        raise _damaged(path, f"{member.filename} announces {found.nbytes:,} bytes and has another size")
    if member.file_size > LARGEST_RATIO * max(1, member.compress_size):
        raise _damaged(path, f"{member.filename} announces more than it can hold")
    return found


@contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, zlib.error) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"The npz file cannot be read: {why}.", received=path)
