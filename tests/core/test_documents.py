"""What recipes and facts are turned into: dotted keys, keys of caches."""

from __future__ import annotations

from rrm_transfer.core.documents import dotted, key_of


def test_nested_values_stand_under_dotted_keys_and_lists_stay_whole() -> None:
    nested = {"seed": 1, "train": {"epochs": 2, "milestones": [1, 2]}, "student": {"args": {"depth": 3}}}
    assert dotted(nested) == {
        "seed": 1, "train.epochs": 2, "train.milestones": [1, 2], "student.args.depth": 3,
    }  # fmt: skip


def test_a_key_depends_on_the_facts_and_not_on_their_order() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1, "b": [2]}) != key_of({"a": 1, "b": [3]})
    assert len(key_of({})) == 32
