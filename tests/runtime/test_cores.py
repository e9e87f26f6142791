"""How many processes decode: those that there are cores for, shared fairly."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer.runtime import cores
from rrm_transfer.runtime.cores import MOST_DECODING, Cores, decoding_workers


def _bound(machine: str, *numbers: int, quota: int | None = None) -> Cores:
    return Cores(machine, frozenset(numbers), len(numbers) if quota is None else quota)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ([_bound("a", *range(8))], 7),
        ([_bound("a", 0)], 0),
        ([_bound("a", *range(128))], MOST_DECODING),
        ([_bound("a", *range(128), quota=6)], 5),
        ([_bound("a", *range(16))] * 2, 7),
        ([_bound("a", *range(8)), _bound("a", *range(8, 16))], 7),
        ([_bound("a", *range(8)), _bound("b", *range(8))], 7),
        ([_bound("a", *range(16)), _bound("b", *range(4))], 3),
        ([_bound("a", 0, 1)] * 8, 0),
    ],
    ids=[
        *("one", "one core", "very many", "a container", "shared", "bound apart", "two machines"),
        *("unequal", "crowded"),
    ],
)
def test_each_process_gets_its_share_less_one(processes: list[Cores], expected: int) -> None:
    assert decoding_workers(processes) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("400000 100000", 4), ("50000 100000", 1), ("max 100000", 8), (None, 8)]
)
def test_a_containers_quota_counts(
    text: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "allowed_cores", lambda: set(range(8)))
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    if text is not None:
        (tmp_path / "cpu.max").write_text(text + "\n", encoding="ascii")
    assert Cores.of_this_process().quota == expected
