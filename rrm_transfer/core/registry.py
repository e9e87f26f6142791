"""Names to implementations, imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Generic, TypeVar, cast

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """A lazy table from a name to ``package.module:attribute``.

    Args:
        kind: What the entries are, for messages ("objective").
        entries: Name to dotted location.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    @property
    def names(self) -> list[str]:
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def add(self, name: str, location: str) -> None:
        """Adds an entry.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already as {self._entries[name]}")
        self._entries[name] = location

    def get(self, name: str) -> T:
        """Imports and returns the entry called ``name``.

        Raises:
            UserError: There is none; the message lists the alternatives.
        """
        if name not in self._entries:
            raise UserError(
                f"Unknown {self.kind}.",
                received=name,
                allowed=self.names,
                hint=did_you_mean(name, self._entries),
            )
        module, _, attribute = self._entries[name].partition(":")
        return cast(T, getattr(importlib.import_module(module), attribute))
