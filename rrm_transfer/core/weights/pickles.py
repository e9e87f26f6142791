"""What a pickle names, found by reading its instructions; nothing is unpickled."""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""What torch.save wrote first before it wrote zip archives."""

_LEGACY_PICKLES = 5  # magic number, protocol, system, content, storage keys
_BROKEN = (ValueError, MemoryError, OverflowError)
"""What reading ends in where there are no instructions; a made-up length asks for too much memory."""

REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
HARMLESS = {("collections", "OrderedDict"), *(("torch._utils", name) for name in REBUILDERS)}
"""What a file of tensors needs. Storage classes count too; they are told by their names."""


def is_harmless(module: str, name: str) -> bool:
    """Tells whether a file of tensors may name ``module.name``."""
    return (module, name) in HARMLESS or (
        module in ("torch", "torch.storage") and name.endswith("Storage") and "." not in name
    )


@dataclass(frozen=True)
class Inventory:
    """What a torch file's pickles say.

    Attributes:
        foreign: What they would import, less what a file of tensors needs.
        whole: Whether every pickle goes to its end.
    """

    foreign: tuple[str, ...]
    whole: bool


def inventory(path: Path, *, archive: bool) -> Inventory:
    """Reads the pickles of a torch checkpoint, instruction by instruction.

    Args:
        path: The checkpoint.
        archive: Whether it is a zip archive; else it is the older chain of five pickles and raw data.
    """
    if archive:
        with zipfile.ZipFile(path) as content:
            streams: list[IO[bytes]] = [
                BytesIO(content.read(entry)) for entry in content.namelist() if entry.endswith(".pkl")
            ]
        named = [_globals(stream) for stream in streams]
    else:
        with open(path, "rb") as stream:
            named = [_globals(stream) for _ in range(_LEGACY_PICKLES)]
    found = {pair for pairs, _ in named for pair in pairs}
    return Inventory(
        tuple(sorted(f"{module}.{name}" for module, name in found if not is_harmless(module, name))),
        all(whole for _, whole in named),
    )


def leading_value(path: Path) -> object:
    """Returns the argument of a pickle's first instruction, framing aside."""
    with open(path, "rb") as stream:
        try:
            return next(
                argument
                for opcode, argument, _ in pickletools.genops(stream)
                if opcode.name not in ("PROTO", "FRAME")
            )
        except (*_BROKEN, StopIteration):
            return None


def _globals(stream: IO[bytes]) -> tuple[set[tuple[str, str]], bool]:
    """Returns each ``(module, name)`` of one pickle, and whether the pickle goes to its end."""
    found: set[tuple[str, str]] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                found.add((module, name))
            elif opcode.name == "STACK_GLOBAL":
                found.add((strings[-2], strings[-1]))
            elif opcode.name == "MEMOIZE" or "PUT" in opcode.name:
                memo[len(memo) if argument is None else int(argument)] = strings[-1] if strings else "?"
            elif "GET" in opcode.name:
                strings.append(memo.get(int(argument or 0), "?"))
            elif isinstance(argument, str):
                strings.append(argument)
    except (*_BROKEN, IndexError):
        return found, False
    return found, True
