"""Lists on a command line whose items carry settings: ``rrm,rrm:noise=1,kd:temperature=2:train.epochs=8``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rrm_transfer.core.errors import UserError

_FORM = "NAME, or NAME:key=value:key=value"


@dataclass(frozen=True)
class Item:
    """One item of such a list.

    Attributes:
        name: Before the first colon.
        settings: ``key=value`` each.
    """

    name: str
    settings: tuple[str, ...]

    def overrides(self, section: str) -> list[str]:
        """Returns recipe overrides: a key without a dot is one of ``section``'s, others are whole paths."""
        return [
            setting if "." in setting.partition("=")[0] else f"{section}.{setting}"
            for setting in self.settings
        ]

    @property
    def slug(self) -> str:
        """The item as a part of a file name."""
        return re.sub(r"[^\w.=-]+", "-", ":".join((self.name, *self.settings))).strip("-")


def read_items(text: str) -> list[Item]:
    """Reads a list; commas and colons within brackets belong to a value.

    Raises:
        UserError: An item is empty or has another form.
    """
    return [_item(part.strip()) for part in _split(text, ",")]


def _item(text: str) -> Item:
    name, *settings = _split(text, ":")
    if not name or not all(re.match(r"[\w.]+=", setting) for setting in settings):
        raise UserError("Not an item of a list.", received=text or "nothing", allowed=_FORM)
    return Item(name, tuple(settings))


def _split(text: str, separator: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
