"""Whole files and documents, and what hypothesis makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

Edit = tuple[str, int, bytes]


def damaged(*whole: bytes) -> st.SearchStrategy[bytes]:
    """Draws one of the files with up to eight edits; it may stay whole, or nothing of it may."""
    edits = st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=8),
    )
    edited = st.builds(_edited, st.sampled_from(whole), st.lists(edits, max_size=8))
    return edited | st.binary(max_size=256)


def _edited(content: bytes, edits: Sequence[Edit]) -> bytes:
    for kind, number, data in edits:
        # Most of what a file says stands at its ends.
        place = number % (len(content) + 1) if number % 3 else min(number % 97, len(content))
        place = len(content) - place if number % 2 else place
        rest = content[place:]
        content = (
            content[:place]
            + {
                "set": data + rest[len(data) :],
                "insert": data + rest,
                "delete": rest[len(data) :],
                "cut": b"",
                "repeat": rest[: 8 * len(data)] + rest,
            }[kind]
        )
    return content


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["\ud800", "a\0b", "../" * 40, "\x1b[2J", "x" * 5000])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
"""Whatever JSON or YAML may hold."""


def changed(document: Any) -> st.SearchStrategy[Any]:
    """Draws the document with up to four of its parts replaced or removed, or something else altogether."""
    change = st.tuples(st.integers(0, 1 << 16), st.booleans(), VALUES)
    return st.builds(_changed, st.just(document), st.lists(change, max_size=4)) | VALUES


def _changed(document: Any, changes: Sequence[tuple[int, bool, Any]]) -> Any:
    for number, remove, value in changes:
        paths = list(_paths(document))
        if paths:
            document = _with(document, paths[number % len(paths)], remove, value)
    return document


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Any:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _paths(child, (*path, key))


def _with(node: Any, path: tuple[Any, ...], remove: bool, value: Any) -> Any:
    first, *rest = path
    pairs = dict(node) if isinstance(node, dict) else dict(enumerate(node))
    if rest:
        pairs[first] = _with(pairs[first], tuple(rest), remove, value)
    elif remove:
        del pairs[first]
    else:
        pairs[first] = value
    return pairs if isinstance(node, dict) else list(pairs.values())
