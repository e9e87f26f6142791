"""JSON and YAML that anybody may have written, and whether a text can be written at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rrm_transfer.core.errors import UserError

DEEPEST = 64
"""Levels of lists and mappings; what walks through a document may recurse."""


def key_of(facts: Mapping[str, Any]) -> str:
    """Returns the key under which what depends on these facts is kept, as 32 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def dotted(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings under keys like ``train.epochs``."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        values |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
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


def parse_json(text: str | bytes) -> Any:
    """Reads JSON.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    try:
        return _shallow(json.loads(text))
    except RecursionError:
        raise _too_deep() from None


def parse_yaml(text: str) -> Any:
    """Reads YAML that names no Python objects and has no aliases, by which a few lines become gigabytes.

    Raises:
        ValueError: It is not such YAML, or is nested too deeply.
    """
    try:
        return _shallow(yaml.load(text, _Loader))
    except RecursionError:
        raise _too_deep() from None
    except Exception as error:  # PyYAML's constructors fail in any way on values that are not what a tag says
        raise ValueError(str(error) or type(error).__name__) from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases are not understood here")
        return super().compose_node(parent, index)


def _shallow(document: Any) -> Any:
    level = [document]
    for _ in range(DEEPEST):
        containers = [node for node in level if isinstance(node, dict | list)]
        if not containers:
            return document
        level = [
            child for node in containers for child in (node.values() if isinstance(node, dict) else node)
        ]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {DEEPEST} levels deep")
