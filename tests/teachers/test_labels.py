from __future__ import annotations

import pytest

from rrm_transfer.teachers.labels import match_labels

TEACHER = ("tench, Tinca tinca", "crane", "crane", "T-shirt/top", "goldfish, Carassius auratus")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (("goldfish, Carassius auratus", "tench, Tinca tinca"), [4, 0]),
        (("Goldfish", "tinca_tinca"), [4, 0]),
        (("t shirt top",), [3]),
        (("crane",), None),
        (("goldfish", "shark"), None),
        (("goldfish", "Carassius auratus"), None),
    ],
)
def test_match(data: tuple[str, ...], expected: list[int] | None) -> None:
    index = match_labels(TEACHER, data)
    assert (None if index is None else index.tolist()) == expected
