"""What images a network of the user's own takes, and what is said where it does not take the data's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.teachers.networks.probing import Takes, channels_taken, find_input, require_input


def fixed(channels: int, size: int) -> nn.Module:
    side = size // 4
    return nn.Sequential(
        nn.Conv2d(channels, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side * side, 5)
    ).eval()


def free(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


@pytest.mark.parametrize(
    ("network", "takes"),
    [
        (fixed(3, 32), Takes(3, 32)),
        (fixed(1, 28), Takes(1, 28)),
        (fixed(3, 224), Takes(3, 224)),
        (free(1), Takes(1, None)),
        (free(4), Takes(4, None)),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).eval(), Takes(1, 28)),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)).eval(), Takes(3, 32)),
        (fixed(3, 52), None),
    ],
)
def test_channels_and_size_are_found(network: nn.Module, takes: Takes | None) -> None:
    assert find_input(network) == takes


def test_what_the_user_says_is_tried_alone() -> None:
    assert find_input(fixed(3, 52), channels=3, size=52) == Takes(3, 52)
    assert find_input(fixed(3, 32), channels=1) is None


def test_grey_and_rgb_stand_in_for_each_other() -> None:
    assert channels_taken(fixed(3, 32), 1, 32) == 3
    assert channels_taken(fixed(1, 32), 3, 32) == 1
    with pytest.raises(UserError):
        channels_taken(free(4), 3, 32)


def test_the_message_names_the_layer_its_input_and_what_fits() -> None:
    with pytest.raises(UserError, match="on images of shape 2x1x32x32, in its layer '3'") as refusal:
        require_input(fixed(1, 28), 1, 32)
    assert refusal.value.received == "2x256 by Linear(in_features=196, out_features=5, bias=True)"
    assert refusal.value.allowed == "images of 28 x 28 pixels with 1 channel"
    assert "--image-size" in str(refusal.value.hint)


def test_an_error_outside_any_layer_is_the_networks_own() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("size")

    with pytest.raises(UserError, match="in its own forward: KeyError: 'size'"):
        require_input(Picky(), 3, 32)
