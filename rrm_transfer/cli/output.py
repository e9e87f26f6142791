"""What commands print: tables for people, JSON for programs; progress goes to standard error."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rrm_transfer.engine.progress import Narrator


def console() -> Console:
    """Returns standard output; colour and width follow the terminal."""
    return Console(soft_wrap=False)


def narrator(quiet: bool) -> Narrator:
    """Returns the voice of a command."""
    from rrm_transfer.engine.progress import Narrator

    return Narrator(None if quiet else Console(stderr=True))


def is_first_process() -> bool:
    """Tells whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def print_json(document: Any) -> None:
    """Prints one JSON document."""
    print(json.dumps(document, indent=1))
