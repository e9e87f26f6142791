"""Reading a weights file without running anything that the file says."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.archives import require_torch_archive
from rrm_transfer.core.weights.pickles import TORCH_MAGIC, Survey, leading_value, survey

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
_ZIP = b"PK\x03\x04"
_WEB_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


_LONGEST_HEADER = 1 << 24
"""Bytes; that of a network of ten thousand tensors has a tenth of it."""
_SLACK = 1 << 20
"""Bytes of a file beside its tensors and its pickles; each entry of an archive is padded besides."""
_PADDING = 1 << 12


def read_file(path: Path) -> object:
    """Returns what the file holds: tensors by name, or containers of them.

    Raises:
        UserError: It is no checkpoint, is damaged, or could only be read by running code in it.
    """
    kind = sniff(path)
    if kind == "safetensors":
        _require_short_header(path)
        try:
            return load_file(path)
        except (SafetensorError, KeyError, ValueError, OSError) as problem:  # names of types that torch lacks
            raise UserError(
                f"The safetensors file is damaged or cut short: {problem}", received=path, hint=_FETCH_AGAIN
            ) from None
    said = survey(path, archive=kind == "zip")
    if said.foreign:
        raise _runs_code(path, f"names {_listed(said.foreign)}")
    if not said.whole:
        raise _damaged(path, str(said.problem))
    if said.problem is not None:
        raise UserError(
            f"The checkpoint is none that torch.save writes of a network's weights: {said.problem}.",
            received=path,
            hint="save the network's state dict as safetensors where the file was made",
        )
    _require_size(path, said)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _runs_code(
            path, "is written in a newer pickle protocol than torch's safe reader takes"
        ) from None
    except Exception as problem:  # of data that are not what the pickles say
        raise _damaged(path, str(problem) or type(problem).__name__) from None


def _require_short_header(path: Path) -> None:
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > min(_LONGEST_HEADER, path.stat().st_size):
        raise UserError(
            "The safetensors file is damaged or cut short: its header is longer than a network's can be.",
            received=f"{path}, {length:,} bytes",
            hint=_FETCH_AGAIN,
        )


def _require_size(path: Path, said: Survey) -> None:
    """Compares the size of a file with what its pickles say of it, before it is read.

    Raises:
        UserError: They claim more than the file has, or it has much more than they claim.
    """
    size = path.stat().st_size
    if said.claimed > size:
        raise UserError(
            "The checkpoint is damaged or cut short: its tensors claim more than the file has room for.",
            received=f"{path}, {size:,} bytes, {said.claimed:,} claimed",
            hint=_FETCH_AGAIN,
        )
    if size > said.claimed + said.length + _SLACK + _PADDING * said.storages:
        raise UserError(
            "The file is much larger than the tensors that it says it holds.",
            received=f"{path}, {size:,} bytes, {said.claimed:,} of tensors",
            hint=_FETCH_AGAIN,
        )


def sniff(path: Path) -> Kind:
    """Tells the kind of checkpoint by its first bytes, whatever its name says; every reader goes by it.

    Raises:
        UserError: It is something else; the message says what.
    """
    if not path.exists():
        raise UserError("There is no such file.", received=path)
    if path.is_dir():
        raise UserError("This is a folder, not a weights file.", received=path, hint=f"local-dir:{path}")
    if not path.is_file():
        raise UserError("This is no regular file.", received=path)
    if path.stat().st_size == 0:
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
    if head.startswith(_ZIP):
        require_torch_archive(path, hint=_FETCH_AGAIN)
        return "zip"
    if head[8:9] == b"{":
        return "safetensors"
    if _is_tar(head):
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


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _runs_code(path: Path, found: str) -> UserError:
    return UserError(
        "Reading this file the usual way could run code in it, so it was not read.",
        received=f"{path}, which {found}",
        allowed="safetensors, or a torch file that holds tensors only",
        hint=f"rrm-transfer inspect {path} --convert {path.with_suffix('.safetensors').name}"
        " takes out the tensors and runs nothing",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"The checkpoint is damaged or cut short: {reason.splitlines()[0][:160]}",
        received=path,
        hint=_FETCH_AGAIN,
    )
