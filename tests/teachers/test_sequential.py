"""What is said about the weights of a plain nn.Sequential, and whether the factory that is shown works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.teachers.guessing import guess
from rrm_transfer.teachers.sequential import factory_text


def small(channels: int, flat: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 10),
        nn.ReLU(),
        nn.Linear(10, 5),
    )


NETWORKS = {
    "strided RGB": (small(3, 512), (3, 32)),
    "strided grey": (small(1, 392), (1, 28)),
    "flat": (nn.Sequential(nn.Flatten(), nn.Linear(784, 8, bias=False), nn.ReLU(), nn.Linear(8, 5)), (1, 28)),
    "pooled": (
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 1, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
        (3, 32),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_factory_that_is_shown_makes_the_network(name: str) -> None:
    network, (channels, size) = NETWORKS[name]
    with pytest.raises(UserError, match=r"plain torch\.nn\.Sequential") as refusal:
        guess(network.state_dict(), source="weights.pth")
    shown = str(refusal.value)
    made: dict[str, Any] = {}
    exec(shown[shown.index("from torch import nn") :], made)
    again = made["network"]()
    again.load_state_dict(network.state_dict())
    x = torch.rand(2, channels, size, size)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), network.eval()(x))


def test_the_message_says_what_the_layers_are() -> None:
    with pytest.raises(UserError) as refusal:
        guess(small(1, 392).state_dict(), source="weights.pth")
    layers = "0 Conv2d 4x1x4x4, 2 Conv2d 8x4x4x4, 5 Linear 10x392, 7 Linear 5x10"
    assert refusal.value.received == f"weights.pth: {layers}"
    assert "nn.Linear(392, 10),  # 8 x 7 x 7: of images of 28 x 28" in str(refusal.value)


def test_a_guess_that_contradicts_the_width_is_marked() -> None:
    shapes = {"0.weight": (4, 3, 3, 3), "3.weight": (5, 4 * 9 * 9)}
    assert "takes 4 x 9 x 9: mend strides, paddings and pooling above" in factory_text(shapes)
