"""A reader to be fuzzed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        inputs: What it is given.
        read: Reads it; the folder is empty and its own. ``UserError`` is an answer, all else is a bug.
    """

    inputs: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Any, Path], object]


def written(name: str, reader: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        (folder / name).write_bytes(content)
        return reader(folder / name)

    return read


def emptied(folder: Path) -> Path:
    """Removes what an example left."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return folder
