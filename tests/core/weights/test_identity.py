"""When weights are the same."""

from __future__ import annotations

import torch
from torch import nn

from rrm_transfer.core.pixels import NAMED_STATISTICS, Normalize
from rrm_transfer.core.weights.identity import weights_hash


def _hash(model: nn.Module, *facts: object) -> str:
    return weights_hash([*model.named_parameters(), *model.named_buffers()], *facts)


def test_the_hash_sees_weights_buffers_and_normalization() -> None:
    def net(change: float = 0.0, statistics: str = "none") -> nn.Module:
        torch.manual_seed(0)
        convolution, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        convolution.weight.data[0, 0, 0, 0] += change
        return nn.Sequential(Normalize(NAMED_STATISTICS[statistics]), convolution, norm)

    assert _hash(net()) == _hash(net())
    assert _hash(net()) != _hash(net(change=1e-6))
    assert _hash(net()) != _hash(net(statistics="cifar10"))
    other = net()
    dict(other.named_buffers())["2.running_mean"] += 1e-6
    assert _hash(net()) != _hash(other)
    assert _hash(net().bfloat16()) != _hash(net())
    assert _hash(net()) != _hash(net(), "a fact")
