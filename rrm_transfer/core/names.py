"""Names: suggestions for those that were not found, and what of a name may be published."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

from rrm_transfer.core.errors import UserError

LOCAL_FOLDER, HUB = "local-dir", "hf-hub"
"""What may stand before the colon of a model's name."""

_LOCAL = re.compile(r"local[-_]dir:|file:|(?:[\w-]+:(?!//))?(?:[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")


def split_scheme(source: str) -> tuple[str | None, str]:
    """Returns the scheme of a model's name, None where it has none, and the rest.

    Raises:
        UserError: It has one that is almost a scheme; taken for a name, it would mean something else.
    """
    scheme, colon, rest = source.partition(":")
    if not colon:
        return None, source
    if scheme in (LOCAL_FOLDER, HUB):
        return scheme, rest
    meant = difflib.get_close_matches(scheme.lower().replace("_", "-"), (LOCAL_FOLDER, HUB), n=1, cutoff=0.8)
    if meant:
        raise UserError("Unknown scheme.", received=source, hint=f"did you mean {meant[0]}:{rest}?")
    return None, source


def nearest(name: str, options: Iterable[str], count: int = 5) -> list[str]:
    """Returns up to ``count`` of ``options`` that look most like ``name``, best first."""
    candidates = {option.lower(): option for option in options}
    matches = difflib.get_close_matches(name.lower(), candidates, n=count, cutoff=0.5)
    return [candidates[match] for match in matches]


def did_you_mean(name: str, options: Iterable[str]) -> str | None:
    """Returns a hint that names the nearest options, or None where nothing is near."""
    close = nearest(name, options)
    return f"did you mean {' or '.join(close)}?" if close else None


def public_name(name: str) -> str:
    """Returns the last part of a local path, and any other name as it is: folders may name people."""
    path = name.rstrip("/\\")
    deep = path.count("/") > 1 and "://" not in path and not re.search(r"\s", path)  # a hub's have one
    local = _LOCAL.match(name) or deep or os.path.exists(name)  # noqa: PTH110  # Path raises on texts that are long
    return re.split(r"[/\\:]", path)[-1] if local else name


def public_names(document: Any) -> Any:
    """Takes the folders from every string of a document that is a local path."""
    if isinstance(document, dict):
        return {key: public_names(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [public_names(value) for value in document]
    return public_name(document) if isinstance(document, str) else document
