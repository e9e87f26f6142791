"""Reading a weights file without running anything that the file says."""

from __future__ import annotations

import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.pickles import TORCH_MAGIC, inventory, leading_value

Kind = Literal["safetensors", "zip", "legacy"]

_FETCH_AGAIN = "fetch the file again and compare its size"
# First bytes of what people save under a checkpoint's name, and what it is.
_NOT_CHECKPOINTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git-LFS pointer, not the weights", "in the repository: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "decompress it and give the file in it"),
    (b"BZh", "a bzip2 archive", "decompress it and give the file in it"),
    (b"\xfd7zXZ", "an xz archive", "decompress it and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "decompress it and give the file in it"),
    (b"7z\xbc\xaf", "a 7z archive", "decompress it and give the file in it"),
    (b"Rar!", "a RAR archive", "decompress it and give the file in it"),
    (b"\x89HDF", "an HDF5 file (Keras?)", "export the weights from their own framework as safetensors"),
    (b"\x93NUMPY", "a NumPy array", "save the network's state dict as safetensors"),
    (b"%PDF", "a PDF document", _FETCH_AGAIN),
    (b"\x89PNG", "an image", "give the weights file"),
    (b"\xff\xd8\xff", "an image", "give the weights file"),
)
_WEB_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


# What zipfile raises, besides its own error, on archives that contradict themselves.
_BAD_ARCHIVE = (ValueError, ArithmeticError, RuntimeError, EOFError, OSError, struct.error, zlib.error)


def read_file(path: Path) -> object:
    """Returns what the file holds: tensors by name, or containers of them.

    Raises:
        UserError: It is no checkpoint, is damaged, or could only be read by running code in it.
    """
    kind = sniff(path)
    if kind == "safetensors":
        try:
            return load_file(path)
        except (SafetensorError, KeyError, ValueError, OSError) as problem:  # names of types that torch lacks
            raise UserError(
                f"The safetensors file is damaged or cut short: {problem}", received=path, hint=_FETCH_AGAIN
            ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        # A damaged pickle can make torch's reader fail in any way: every instruction trusts the last.
        raise _refusal(path, kind, problem) or _damaged(path, problem) from None


def sniff(path: Path) -> Kind:
    """Tells the kind of checkpoint by its first bytes, whatever its name says.

    Raises:
        UserError: It is something else; the message says what.
    """
    if not path.exists():
        raise UserError("There is no such file.", received=path)
    if path.is_dir():
        raise UserError("This is a folder, not a weights file.", received=path, hint=f"local-dir:{path}")
    size = path.stat().st_size
    if size == 0:
        raise UserError("The file is empty.", received=path, hint=_FETCH_AGAIN)
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.lstrip()[:16].lower().startswith(_WEB_PAGES):
        raise UserError(
            "This is a web page, not a checkpoint.",
            received=path,
            hint="the link led to a page (a login, a virus-scan warning); fetch the file itself",
        )
    for magic, what, hint in _NOT_CHECKPOINTS:
        if head.startswith(magic):
            raise UserError(f"This is {what}.", received=path, hint=hint)
    if head.startswith(b"PK"):
        _require_torch_archive(path)
        return "zip"
    if head[8:9] == b"{":
        return "safetensors"
    if tarfile.is_tarfile(path):
        raise UserError(
            "This is a tar archive.", received=path, hint="unpack it and give the checkpoint that is in it"
        )
    if head[:1] in (b"{", b"["):
        raise UserError(
            "This is JSON text, not a checkpoint.",
            received=path,
            hint="a server's error message? look inside",
        )
    if head[:1] == b"\x80" and leading_value(path) == TORCH_MAGIC:
        return "legacy"
    if path.suffix == ".safetensors":
        return "safetensors"
    if head[:1] != b"\x80":
        raise UserError(
            "This is not a checkpoint: neither safetensors nor what torch.save writes.",
            received=f"{path}, first bytes {head[:8]!r}",
            hint=_FETCH_AGAIN,
        )
    raise UserError(
        "This is a pickle, but not one that torch.save wrote.",
        received=path,
        hint="save the network's state dict as safetensors where the file was made",
    )


def _require_torch_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, *_BAD_ARCHIVE):
        raise UserError(
            "The checkpoint is cut short: its table of contents is missing.",
            received=f"{path}, {path.stat().st_size} bytes",
            hint=_FETCH_AGAIN,
        ) from None
    size = path.stat().st_size
    if unpacked > size:
        raise UserError(
            "The archive unpacks to more than its size; torch.save compresses nothing.",
            received=f"{path}, {size:,} bytes, {unpacked:,} unpacked",
            hint="a checkpoint that was packed again: save it anew where it was made",
        )
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


def _refusal(path: Path, kind: Kind, problem: Exception) -> UserError | None:
    """Returns the refusal of a file that is whole but names code, or None where it is neither."""
    try:
        contents = inventory(path, archive=kind == "zip")
    except (zipfile.BadZipFile, *_BAD_ARCHIVE):
        return None
    if contents.foreign:
        listed = ", ".join(contents.foreign[:8])
        more = f" and {len(contents.foreign) - 8} more" if len(contents.foreign) > 8 else ""
        found = f"names {listed}{more}"
    elif contents.whole and isinstance(problem, pickle.UnpicklingError):
        found = "is written in a newer pickle protocol than torch's safe reader takes"
    else:
        return None
    return UserError(
        "Reading this file the usual way could run code in it, so it was not read.",
        received=f"{path}, which {found}",
        allowed="safetensors, or a torch file that holds tensors only",
        hint=f"rrm-transfer inspect {path} --convert {path.with_suffix('.safetensors').name}"
        " takes out the tensors and runs nothing",
    )


def _damaged(path: Path, problem: Exception) -> UserError:
    # torch's own words for a pickle that makes no sense advise to read it without care.
    is_advice = isinstance(problem, pickle.UnpicklingError)
    reason = "a pickle in it breaks off" if is_advice else (str(problem) or type(problem).__name__)
    return UserError(
        f"The checkpoint is damaged or cut short: {reason.splitlines()[0][:160]}",
        received=path,
        hint=_FETCH_AGAIN,
    )
