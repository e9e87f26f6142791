"""The classes of a teacher beside the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def match_labels(teacher_names: Sequence[str], data_names: Sequence[str]) -> Tensor | None:
    """Finds each class of the data among the teacher's.

    Names are compared without case and punctuation; one of several synonyms ("tench, Tinca tinca") is
    enough where it names a single class.

    Args:
        teacher_names: In the order of the teacher's logits.
        data_names: In the order of the data's labels.

    Returns:
        The teacher's class for each class of the data, ``(data classes,)`` int64, so that
        ``logits[:, index]`` are logits over the data's classes; None where a class is not found, or where
        two would be the same.
    """
    places: dict[str, set[int]] = {}
    for place, name in enumerate(teacher_names):
        for synonym in _synonyms(name):
            places.setdefault(synonym, set()).add(place)
    index = []
    for name in data_names:
        whole = places.get(_plain(name), set())
        found = (
            whole
            if len(whole) == 1
            else {
                place
                for synonym in _synonyms(name)
                for place in places.get(synonym, ())
                if len(places[synonym]) == 1
            }
        )
        if len(found) != 1:
            return None
        index.append(found.pop())
    return torch.tensor(index) if len(set(index)) == len(index) else None


def _synonyms(name: str) -> set[str]:
    return {_plain(name), *(_plain(part) for part in name.split(","))}


def _plain(name: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
