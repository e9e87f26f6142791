"""State dicts in what people save around them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.weights.containers import state_dict_in

WEIGHTS = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}
FILE = Path("weights.pth")


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"state_dict": [WEIGHTS], "err": torch.tensor(0.2), "epoch": 3}, ("state_dict", "0")),
        ({"state_dict": (WEIGHTS,), "sampler_indices": []}, ("state_dict", "0")),
        ([WEIGHTS], ("0",)),
        ({"state_dict": WEIGHTS, "losses": [torch.tensor(1.0)]}, ("state_dict",)),
        ({**WEIGHTS, "losses": [torch.tensor(1.0)]}, ()),
    ],
)
def test_a_state_dict_inside_a_list_is_found(content: object, path: tuple[str, ...]) -> None:
    found = state_dict_in(content, source=FILE)
    assert (found.tensors, found.path) == (WEIGHTS, path)


def test_several_in_a_list_are_told_by_their_places() -> None:
    with pytest.raises(UserError, match="several state dicts") as refusal:
        state_dict_in({"state_dict": [WEIGHTS, WEIGHTS.copy()]}, source=FILE)
    assert refusal.value.received == "weights.pth: state_dict.0, state_dict.1"


def test_a_list_that_holds_itself_is_no_endless_search() -> None:
    content: dict[str, object] = {}
    content["a"] = [content]
    with pytest.raises(UserError, match="no tensors"):
        state_dict_in(content, source=FILE)
    with pytest.raises(UserError, match="holds a list"):
        state_dict_in([torch.ones(2)], source=FILE)
