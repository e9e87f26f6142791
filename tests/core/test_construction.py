"""A network that a few words ask for is bounded while it is built."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rrm_transfer.core import construction
from rrm_transfer.core.construction import bounded
from rrm_transfer.core.errors import UserError
from rrm_transfer.students.creation import create_timm
from rrm_transfer.teachers.networks import Blueprint, build_model


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("test_resnet", {"layers": [10**9, 1, 1, 1]}),
        ("test_resnet", {"layers": (10**5, 1, 1, 1)}),
        ("test_vit", {"depth": 10**9}),
        ("test_vit", {"depth": 10**5}),
        ("test_vit", {"embed_dim": 99_968}),
        ("test_vit", {"patch_size": {"deep": [2**63]}}),
    ],
)
def test_a_network_of_any_size_is_refused(
    name: str, args: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(construction, "MODULES", 300)
    with torch.device("meta"), pytest.raises(UserError, match="too large"):
        create_timm(name, num_classes=2, channels=3, args=args)
    with torch.device("meta"), pytest.raises(UserError, match="too large"):
        build_model(Blueprint(name, {"num_classes": 2, "in_chans": 3, **args}))


def test_parameters_are_counted_before_they_are_filled() -> None:
    with pytest.raises(UserError, match="more than 1,000 parameters"), bounded({}, parameters=1000):
        nn.Sequential(nn.Linear(10, 10), nn.Linear(1000, 1000))
    with bounded({"depth": 3}, parameters=1000):
        nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.LazyLinear(5))
    nn.Linear(100, 100)  # nothing is counted any more
