"""Weights files that are made to hurt, each with the words in which it is refused."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

Write = Callable[[Path], None]


def archive(pickled: bytes, *others: tuple[str, bytes]) -> Write:
    """Writes an archive as torch.save does, around instructions of one's own."""

    def write(path: Path) -> None:
        torch.save({"fc.weight": torch.zeros(1)}, path)
        with zipfile.ZipFile(path) as made:
            entries = {entry.filename: made.read(entry) for entry in made.infolist()}
        folder = next(iter(entries)).partition("/")[0]
        entries[f"{folder}/data.pkl"] = pickled
        with zipfile.ZipFile(path, "w") as changed:
            for name, data in (*entries.items(), *((f"{folder}/{name}", data) for name, data in others)):
                changed.writestr(name, data)

    return write


def chain(pickled: bytes) -> Write:
    """Writes the older form around instructions of one's own."""

    def write(path: Path) -> None:
        stream = io.BytesIO()
        torch.save({}, stream, _use_new_zipfile_serialization=False)
        content = stream.getvalue()
        first = content.index(b"}q\x00.") if b"}q\x00." in content else content.rindex(b"}q")
        path.write_bytes(content[: content.rindex(b"\x80\x02", 0, first + 1)] + pickled + b"\x80\x02]q\x00.")

    return write


def saved(content: Callable[[], object], *, zipped: bool = True) -> Write:
    return lambda path: torch.save(content(), path, _use_new_zipfile_serialization=zipped)


def _itself() -> object:
    content: dict[str, object] = {"a": torch.zeros(1)}
    content["state_dict"] = content
    return content


def _nested() -> object:
    content: dict[str, object] = {"w": torch.zeros(1)}
    for _ in range(300):
        content = {"model": content}
    return content


def _diamonds() -> object:
    content: dict[str, object] = {"w": 1}
    for _ in range(60):
        content = {"a": content, "b": content}
    return content


def _attributed(name: str) -> bytes:
    attribute = b"X" + len(name).to_bytes(4, "little") + name.encode()
    return b"\x80\x02ccollections\nOrderedDict\n)R}" + attribute + b"K\x03sb."


def _hexbomb() -> bytes:
    # encode(text, "hex") is twice as long each time
    start = (
        b"\x80\x02c_codecs\nencode\nq\x00X\x10\x00\x00\x00" + b"a" * 16 + b"q\x01X\x03\x00\x00\x00hexq\x02"
    )
    return start + b"0" * 3 + (b"h\x00h\x01h\x02\x86Rq\x01" + b"0") * 30 + b"h\x01."


def _copies() -> bytes:
    text = b"a" * (1 << 20)
    once = b"h\x00h\x01h\x02\x86R"
    start = b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text + b"q\x01"
    return start + b"X\x06\x00\x00\x00latin1q\x02000](" + once * 5000 + b"e."


def _deep_tuple() -> bytes:
    return b"\x80\x02}N" + b"\x85" * 300_000 + b"Ns."


def _memory(function: str) -> bytes:
    module, _, name = function.rpartition(".")
    return f"\x80\x02c{module}\n{name}\n".encode("latin1") + b"\x8a\x05\x00\x00\x00\x00\x10\x85R."


def _new(function: str) -> bytes:
    return _memory(function)[:-2] + b"\x81."


def _rebuilt(offset: int, shape: int, stride: int, count: int = 1) -> bytes:
    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(count) + b"tQ" + number(offset)
    hooks = b"\x89ccollections\nOrderedDict\n)RtR"
    return (
        b"\x80\x02}X\x01\x00\x00\x00w"
        + tensor
        + number(shape)
        + b"\x85"
        + number(stride)
        + b"\x85"
        + hooks
        + b"s."
    )


def _sparse_file(begin: Write, size: int) -> Write:
    def write(path: Path) -> None:
        begin(path)
        os.truncate(path, size)

    return write


def _two_tables(path: Path) -> None:
    """Writes an archive whose end says to one reader that there is another, larger table."""
    saved(lambda: {"w": torch.zeros(1)})(path)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("net/data.pkl", bytes(1 << 28))
    path.write_bytes(other.getvalue() + path.read_bytes())


def _renamed(path: Path) -> None:
    """Writes two entries of one name, of which readers take different ones."""
    saved(lambda: {"w": torch.zeros(1)})(path)
    with zipfile.ZipFile(path) as made:
        folder = made.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(path, "a") as changed:
        changed.writestr(f"{folder}/DATA.pkl", b"\x80\x02}.")


def _deflated(path: Path) -> None:
    saved(lambda: {"w": torch.rand(100)})(path)
    with zipfile.ZipFile(path) as made:
        entries = {entry.filename: made.read(entry) for entry in made.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as changed:
        for name, data in entries.items():
            changed.writestr(
                name, data, zipfile.ZIP_DEFLATED if name.endswith("version") else zipfile.ZIP_STORED
            )


def _tar_like(head: bytes) -> Write:
    """Writes a tar whose first name begins as another form does; it holds a link, a FIFO and a file."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
            for name, kind in (
                (head.decode("latin1"), tarfile.REGTYPE),
                ("link", tarfile.SYMTYPE),
                ("storages", tarfile.FIFOTYPE),
            ):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, "/etc/passwd"
                made.addfile(entry)
        content = bytearray(path.read_bytes())
        content[: len(head)] = head
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
        path.write_bytes(bytes(content))

    return write


def _safetensors(tensors: dict[str, torch.Tensor]) -> Write:
    return lambda path: save_file(tensors, path)


def _many(path: Path) -> None:
    header = json.dumps(
        {str(number): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(400_000)}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


HOSTILE: dict[str, tuple[Write, str]] = {
    "a dict that holds itself": (saved(_itself), "hold themselves"),
    "dicts in dicts": (saved(_nested), "nested too deeply"),
    "diamonds of dicts": (saved(_diamonds), "holds no tensors"),
    **{
        f"an attribute {name}": (archive(_attributed(name)), "sets attributes that a mapping has")
        for name in ("items", "values", "get", "__len__", "keys")
    },
    "an attribute of a tensor": (
        archive(_rebuilt(0, 1, 1)[:-2] + b"}X\x05\x00\x00\x00shapeK\x03sbs."), "sets attributes of what",
    ),
    "hexbomb": (archive(_hexbomb()), "encodes what is no text"),
    "hexbomb, older form": (chain(_hexbomb()), "encodes what is no text"),
    "copies": (archive(_copies()), "copies more than it holds"),
    "a tuple in tuples": (archive(_deep_tuple()), "nested more than 64 levels"),
    "bytearray of a number": (archive(_memory("__builtin__.bytearray")), "asks for memory"),
    "a tensor of a number": (archive(_memory("torch.FloatTensor")), "could run code"),
    "a storage of a number": (archive(_memory("torch.FloatStorage")), "calls what no file"),
    "a new storage": (archive(_new("torch.FloatStorage")), "calls what no file"),
    "a tensor beyond its storage": (archive(_rebuilt(0, 1 << 40, 1)), "larger than its storage"),
    "an offset beyond its storage": (archive(_rebuilt(1 << 40, 1, 1)), "larger than its storage"),
    "a negative shape": (archive(_rebuilt(0, -1, 1)), "shape is none"),
    "a storage beyond its file": (archive(_rebuilt(0, 1, 1, 1 << 40)), "more than the file has room for"),
    "a storage beyond its file, older form": (chain(_rebuilt(0, 1, 1, 1 << 40)), "more than the file"),
    "long instructions": (archive(b"\x80\x02" + b"N0" * (1 << 24) + b"N."), "more instructions"),
    "a string of a terabyte": (chain(b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little")), "damaged|truncated"),
    "a bytearray of a terabyte": (chain(b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little")), "a bytearray"),
    "a sparse file, older form": (
        _sparse_file(saved(lambda: {"w": torch.zeros(1)}, zipped=False), 1 << 40), "much larger than",
    ),
    "a sparse archive": (_sparse_file(saved(lambda: {"w": torch.zeros(1)}), 1 << 40), "cut short"),
    "a sparse file of safetensors": (
        _sparse_file(_safetensors({"w": torch.zeros(1)}), 1 << 40), "damaged or cut short",
    ),
    "two archives": (_two_tables, "unpacks to more|none that torch.save writes"),
    "two entries of one name": (_renamed, "none that torch.save writes"),
    "a compressed entry": (_deflated, "none that torch.save writes"),
    "an unused entry": (archive(_rebuilt(0, 1, 1), ("more", bytes(1 << 22))), "much larger than"),
    "a tar that begins as a zip": (_tar_like(b"PK\x03\x04"), "cut short"),
    "a tar that begins nearly as a zip": (_tar_like(b"PK"), "tar archive"),
    "a tar that begins as the older form": (
        _tar_like(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "tar archive",
    ),
    "a nested tensor": (
        saved(lambda: {"w": torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])}), "nested",
    ),
    "a quantised tensor": (
        saved(lambda: {"w": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}), "quantised",
    ),
    "complex weights": (saved(lambda: {"w": torch.zeros(2, dtype=torch.complex64)}), "of a type"),
    "a complex mean": (
        saved(lambda: {"w": torch.zeros(2), "mean": torch.zeros(3) * 1j, "std": torch.ones(3)}), "of a type",
    ),
    **{
        f"{kind} in safetensors": (_safetensors({"w": torch.zeros(2, dtype=kind)}), "of a type")
        for kind in (torch.float8_e4m3fn, torch.int8, torch.uint16, torch.complex64)
    },
    "float8": (saved(lambda: {"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}), "rare type"),
    "very many tensors": (_many, "header is longer"),
    "a name of two megabytes": (_safetensors({"w" * (1 << 21): torch.zeros(1)}), "name is longer"),
    "a FIFO": (os.mkfifo, "no regular file"),
}  # fmt: skip
