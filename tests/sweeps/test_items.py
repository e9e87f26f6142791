"""Lists whose items carry settings."""

from __future__ import annotations

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.sweeps.items import Item, read_items


def test_an_item_is_a_name_with_settings() -> None:
    assert read_items("rrm, rrm:noise=1:train.epochs=8,kd") == [
        Item("rrm", ()),
        Item("rrm", ("noise=1", "train.epochs=8")),
        Item("kd", ()),
    ]


def test_commas_and_colons_in_brackets_belong_to_a_value() -> None:
    (item,) = read_items("rrm:layers=[1,{a: 2}]:noise=1")
    assert item.settings == ("layers=[1,{a: 2}]", "noise=1")
    assert item.slug == "rrm-layers=-1-a-2-noise=1"


def test_a_dot_makes_a_setting_a_recipe_path() -> None:
    (item,) = read_items("rrm:noise=0.5:train.epochs=8")
    assert item.overrides("objective") == ["objective.noise=0.5", "train.epochs=8"]
    assert item.slug == "rrm-noise=0.5-train.epochs=8"


@pytest.mark.parametrize("text", ["", "rrm,", "rrm:noise", ":noise=1", "rrm:=1", "rrm:noise=1:"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="Not an item"):
        read_items(text)
