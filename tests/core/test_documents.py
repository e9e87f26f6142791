"""What recipes and facts are turned into: dotted keys, keys of caches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from rrm_transfer.core.documents import Difference, differences, dotted, key_of, read_form, read_text
from rrm_transfer.core.errors import UserError


def test_nested_values_stand_under_dotted_keys_and_lists_stay_whole() -> None:
    nested = {"seed": 1, "train": {"epochs": 2, "milestones": [1, 2]}, "student": {"args": {"depth": 3}}}
    assert dotted(nested) == {
        "seed": 1, "train.epochs": 2, "train.milestones": [1, 2], "student.args.depth": 3,
    }  # fmt: skip


def test_a_key_depends_on_the_facts_and_not_on_their_order() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1, "b": [2]}) != key_of({"a": 1, "b": [3]})
    assert len(key_of({})) == 32


def test_differences_are_told_by_path_and_nothing_is_lost_between_none_and_empty() -> None:
    before = {"seed": 0, "train": {"lr": 0.1, "ema": None}, "args": {}, "gone": 1}
    now = {"seed": 0, "train": {"lr": 0.2, "ema": {}}, "args": {"depth": 3}, "new": [1]}
    found = differences(before, now)
    assert found == [
        Difference("args", {}, None),
        Difference("args.depth", None, 3),
        Difference("gone", 1, None),
        Difference("new", None, [1]),
        Difference("train.ema", None, {}),
        Difference("train.lr", 0.1, 0.2),
    ]
    assert str(found[-1]) == "train.lr: was 0.1, is now 0.2"
    assert differences([1], {"a": 1}) == [Difference("a", None, 1)]
    assert differences(before, before) == []


def test_only_text_in_ordinary_files_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("fifo", "bytes", "."):
        with pytest.raises((ValueError, OSError)):
            read_text(tmp_path / name)
    (tmp_path / "half").write_text(r'{"a": ["\ud800"]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.0 holds half of a surrogate pair"):
        read_form(tmp_path / "half", TypeAdapter(dict[str, list[str]]))
