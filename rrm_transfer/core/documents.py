"""JSON and YAML that anybody may have written, and whether a text can be written at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.printing import brief

DEEPEST = 64
"""Levels of lists and mappings; what walks through a document may recurse."""
LONGEST = 2**30
"""Bytes of a document."""
_BITS = 64
"""Of a whole number."""

T = TypeVar("T")


def key_of(facts: Mapping[str, Any]) -> str:
    """Returns the key under which what depends on these facts is kept, as 32 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def dotted(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings under keys like ``train.epochs``; an empty mapping is a value."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, Mapping) and value
        values |= dotted(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return values


def unwritable(document: Any, *, paths: bool = False, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Finds the strings that no UTF-8 file can hold, keys included.

    Args:
        document: Mappings, lists and scalars.
        paths: Whether what is a file's name, though not in UTF-8, will do.
        prefix: Of the dotted paths.

    Yields:
        Dotted paths and the strings.
    """
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from unwritable(key, paths=paths, prefix=f"{prefix}{key}.")
            yield from unwritable(value, paths=paths, prefix=f"{prefix}{key}.")
    elif isinstance(document, list | tuple):
        for index, value in enumerate(document):
            yield from unwritable(value, paths=paths, prefix=f"{prefix}{index}.")
    elif isinstance(document, str | os.PathLike):
        text = str(document)
        try:
            text.encode(errors="surrogateescape" if paths else "strict")
        except UnicodeEncodeError:
            yield prefix.removesuffix("."), text


def require_text(document: Any, *, what: str) -> None:
    """Checks, before the work begins, that its results can be written.

    Args:
        document: As of ``unwritable``.
        what: It holds.

    Raises:
        UserError: A string in it is not UTF-8.
    """
    found = [f"{path}: {text}" if path else text for path, text in unwritable(document)]
    if found:
        raise UserError(
            f"{what} cannot be written: not UTF-8.", received="; ".join(found[:10]), hint="give another name"
        )


@dataclass(frozen=True)
class Difference:
    """One value that is another than it was.

    Attributes:
        path: Dotted.
        before: None also where there was none.
        now: None also where there is none.
    """

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: was {self.before}, is now {self.now}"


def differences(before: Any, now: Mapping[str, Any]) -> list[Difference]:
    """Compares two documents value by value, in the order of their paths.

    Args:
        before: As it was kept; what is no mapping holds nothing.
        now: As it would be kept.
    """
    first, second = dotted(before if isinstance(before, Mapping) else {}), dotted(now)
    return [
        Difference(path, first.get(path), second.get(path))
        for path in sorted(first.keys() | second.keys())
        if first.get(path) != second.get(path)
    ]


def read_text(path: Path) -> str:
    """Reads a file of UTF-8; what would wait for a writer, or never end, is refused.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no ordinary file, too long, or not UTF-8.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not an ordinary file")
        if facts.st_size > LONGEST:
            raise ValueError(f"{facts.st_size:,} bytes")
        with open(handle, "rb", closefd=False) as stream:
            return stream.read().decode("utf-8")
    finally:
        os.close(handle)


def damaged(path: Path, field: str, holds: str, allowed: str) -> UserError:
    """Words the one mistake that a run folder can be: it does not hold what a run writes.

    Args:
        path: The file.
        field: Dotted; empty where it is the file as a whole.
        holds: What is there.
        allowed: What may be there.
    """
    place = f"{path.name}, {field}" if field else path.name
    return UserError(
        f"This run folder was changed or is damaged: {place} holds {holds}.", received=path, allowed=allowed
    )


def read_form(path: Path, form: TypeAdapter[T], parse: Callable[[str], Any] | None = None) -> T:
    """Reads a file of a run folder as what it must be.

    Args:
        path: The file.
        form: What it must hold.
        parse: Reads the text; None: ``parse_json``.

    Raises:
        UserError: It holds something else; see ``damaged``.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise damaged(path, "", "nothing: it is missing", "what the run wrote") from None
    except (OSError, ValueError) as error:
        raise damaged(path, "", f"what cannot be read ({error})", "UTF-8 text in an ordinary file") from None
    try:
        content = (parse or parse_json)(text)
    except ValueError as error:
        raise damaged(path, "", f"what cannot be read ({error})", "what the run wrote") from None
    for field, _ in unwritable(content):  # only an escape can write half of a surrogate pair
        raise damaged(path, field, "half of a surrogate pair", "text")
    return as_form(path, content, form)


def as_form(path: Path, content: Any, form: TypeAdapter[T], prefix: str = "") -> T:
    """Checks what stands in a file of a run folder.

    Args:
        path: The file.
        content: Of the file, or of the part of it that ``prefix`` names.
        form: What it must be.
        prefix: Begins the names of fields.

    Raises:
        UserError: It is something else; see ``damaged``.
    """
    try:
        return form.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = prefix + ".".join(map(str, first["loc"]))
        message = re.sub(r"^(Value error, |Input should be )| or (an )?instance of \w+", "", first["msg"])
        holds = brief(first["input"])
        if first["type"] == "missing":
            holds, message = "nothing", "a value; the run wrote one"
        raise damaged(path, field, holds, message) from None


def parse_json(text: str | bytes) -> Any:
    """Reads JSON.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a number of more than 64 bits.
    """
    try:
        return modest(json.loads(text))
    except RecursionError:
        raise _too_deep() from None


def parse_yaml(text: str) -> Any:
    """Reads YAML that names no Python objects and has no aliases, by which a few lines become gigabytes.

    Raises:
        ValueError: It is not such YAML, is nested too deeply, or has a number of more than 64 bits.
    """
    try:
        return modest(yaml.load(text, _Loader))
    except RecursionError:
        raise _too_deep() from None
    except Exception as error:  # PyYAML's constructors fail in any way on values that are not what a tag says
        raise ValueError(str(error) or type(error).__name__) from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases are not understood here")
        return super().compose_node(parent, index)


def modest(document: Any) -> Any:
    """Returns a document whose depth and whole numbers others can cope with.

    Raises:
        ValueError: It is nested too deeply, or has a number of more than 64 bits.
    """
    level = [document]
    for _ in range(DEEPEST):
        for node in level:
            if isinstance(node, int) and node.bit_length() > _BITS:
                raise ValueError(f"a number of {node.bit_length():,} bits; {_BITS} are allowed")
        containers = [node for node in level if isinstance(node, dict | list)]
        if not containers:
            return document
        level = [
            child
            for node in containers
            for child in ((*node.keys(), *node.values()) if isinstance(node, dict) else node)
        ]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {DEEPEST} levels deep")
