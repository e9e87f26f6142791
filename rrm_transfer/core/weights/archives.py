"""The zip archives that torch.save writes, told from those in which two readers would see two things."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

from rrm_transfer.core.errors import UserError

MOST_ENTRIES = 1 << 17
"""Of an archive; a network of ten thousand tensors with its optimizer has a quarter of that."""

_LOCAL_HEADER = 30
"""Bytes before an entry's name."""
_END, _LOCATOR, _END64 = 22, 20, 56
"""Bytes of the records behind the table of contents."""

BAD_ARCHIVE = (
    zipfile.BadZipFile, ValueError, ArithmeticError, RuntimeError, EOFError, OSError, struct.error,
    zlib.error,
)  # fmt: skip
"""What zipfile raises on archives that contradict themselves."""


def find_pickle(archive: zipfile.ZipFile) -> str:
    """Returns the name of the entry that says what the others are.

    Raises:
        ValueError: There is none.
    """
    names = [name for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
    if not names:
        raise ValueError("there is no data.pkl")
    return names[0]


def require_torch_archive(path: Path, *, hint: str) -> None:
    """Checks that an archive is one that torch.save could have written, by its table of contents.

    Args:
        path: Of the archive.
        hint: What to do about one that is cut short.

    Raises:
        UserError: It is not.
    """
    size = path.stat().st_size
    try:
        count, table = _table(path, size)
        if count > MOST_ENTRIES:
            raise _odd(path, f"{count:,} entries")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except BAD_ARCHIVE:
        raise UserError(
            "The checkpoint is cut short: its table of contents is missing.",
            received=f"{path}, {size} bytes",
            hint=hint,
        ) from None
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size:
        raise UserError(
            "The archive unpacks to more than its size; torch.save compresses nothing.",
            received=f"{path}, {size:,} bytes, {unpacked:,} unpacked",
            hint="a checkpoint that was packed again: save it anew where it was made",
        )
    if len(entries) != count or len({entry.filename.lower() for entry in entries}) < count:
        raise _odd(path, "entries that are not counted, or of one name")
    ends = [*sorted(entry.header_offset for entry in entries)[1:], table]
    for entry, end in zip(sorted(entries, key=lambda entry: entry.header_offset), ends, strict=True):
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        if not stored or entry.flag_bits & 1 or entry.filename != entry.orig_filename:
            raise _odd(path, f"{entry.filename}, which is compressed, encrypted or of a broken name")
        if entry.header_offset + _LOCAL_HEADER + entry.file_size > end:
            raise _odd(path, f"{entry.filename}, which reaches into the next")
    if len({entry.filename.partition("/")[0] for entry in entries}) > 1:
        raise _odd(path, "entries that are not of one folder")
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise UserError(
            "This is a TorchScript archive: a program, not weights.",
            received=path,
            hint="save the network's state dict as safetensors where the file was made",
        )
    if "data.pkl" not in names:
        raise UserError(
            "This is a zip archive, but not one that torch.save wrote.",
            received=path,
            hint="unpack it and give the checkpoint that is in it",
        )


def _table(path: Path, size: int) -> tuple[int, int]:
    """Returns how many entries an archive has, and where its table begins.

    Only the form that torch.save writes is read, in which every reader must find the same table: it ends
    where its records begin, these end the file, and what they say twice they say alike.

    Raises:
        BadZipFile: The file does not end in such records.
        UserError: They contradict each other.
    """
    with open(path, "rb") as stream:
        stream.seek(-min(size, _END + _LOCATOR + _END64), os.SEEK_END)
        tail = stream.read()
    end = tail[-_END:]
    if len(end) < _END or not end.startswith(b"PK\5\6") or end[20:] != b"\0\0":
        raise zipfile.BadZipFile("no end record")
    said = struct.unpack("<HHHHII", end[4:20])
    disks, counts, length, offset = said[:2], said[2:4], said[4], said[5]
    begin = size - _END
    locator = tail[-_END - _LOCATOR : -_END]
    if locator.startswith(b"PK\6\7"):
        begin -= _LOCATOR + _END64
        record = tail[-_END - _LOCATOR - _END64 : -_END - _LOCATOR]
        if struct.unpack("<Q", locator[8:16]) != (begin,) or record[:12] != _HEAD64:
            raise _odd(path, "two tables")
        large = struct.unpack("<IIQQQQ", record[16:])
        if any(a not in (b, top) for a, b, top in zip(said, large, _TOPS, strict=True)):
            raise _odd(path, "two tables")
        disks, counts, length, offset = large[:2], large[2:4], large[4], large[5]
    if any(disks) or counts[0] != counts[1] or offset + length != begin:
        raise _odd(path, "a table that is not where it should be")
    return counts[0], offset


_HEAD64 = b"PK\6\6" + (_END64 - 12).to_bytes(8, "little")
_TOPS = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
"""What the small record holds where only the large one can say it."""


def _odd(path: Path, what: str) -> UserError:
    return UserError(
        "The archive's table of contents is none that torch.save writes; readers could see different things.",
        received=f"{path}: {what[:200]}",
        hint="a checkpoint that was packed again: save it anew where it was made",
    )
