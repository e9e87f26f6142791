"""Wide ResNets in the two dialects that robust CIFAR checkpoints speak.

Zagoruyko, Komodakis, "Wide residual networks", BMVC 2016. The dialects differ in the names of their
weights, in where a convolution of stride 2 pads, and in the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rrm_transfer.core.outputs import Outputs

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu}


def _widths(width: int) -> tuple[int, int, int, int]:
    return 16, 16 * width, 32 * width, 64 * width


class _TradesBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = (
            None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activation))))
        total: Tensor = out + (x if self.convShortcut is None else self.convShortcut(activation))
        return total


class _TradesGroup(nn.Module):
    def __init__(self, count: int, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                _TradesBlock(channels if i else in_channels, channels, 1 if i else stride)
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class TradesWideResNet(nn.Module):
    """The dialect of TRADES' code (Zhang et al., ICML 2019), which most CIFAR checkpoints share.

    Its second copy of the first group, ``sub_block1``, takes no part in the forward pass and is left out.

    Args:
        depth: 6n + 4.
        width: Factor on the channels.
        num_classes: Of the classifier.
        in_chans: Of the images.
        bias: Of the classifier.
    """

    def __init__(
        self, *, depth: int, width: int, num_classes: int = 10, in_chans: int = 3, bias: bool = True
    ) -> None:
        super().__init__()
        count = (depth - 4) // 6
        stem, first, second, third = _widths(width)
        self.conv1 = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.block1 = _TradesGroup(count, stem, first, 1)
        self.block2 = _TradesGroup(count, first, second, 2)
        self.block3 = _TradesGroup(count, second, third, 2)
        self.bn1 = nn.BatchNorm2d(third)
        self.fc = nn.Linear(third, num_classes, bias=bias)

    def forward(self, x: Tensor) -> Outputs:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        features = F.relu(self.bn1(x)).mean((2, 3))
        return Outputs(self.fc(features), features)


class _DeepMindBlock(nn.Module):
    def __init__(
        self, in_channels: int, channels: int, stride: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.conv_0 = nn.Conv2d(in_channels, channels, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = (
            None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )
        self.activation = activation
        # TensorFlow's SAME: a stride of 2 pads at the far sides only.
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        activation = self.activation(self.batchnorm_0(x))
        out = self.conv_0(F.pad(activation, self.padding))
        out = self.conv_1(self.activation(self.batchnorm_1(out)))
        total: Tensor = out + (x if self.shortcut is None else self.shortcut(activation))
        return total


class _DeepMindGroup(nn.Module):
    def __init__(
        self,
        count: int,
        in_channels: int,
        channels: int,
        stride: int,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(
                _DeepMindBlock(channels if i else in_channels, channels, 1 if i else stride, activation)
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DeepMindWideResNet(nn.Module):
    """The dialect of Gowal et al., "Uncovering the limits of adversarial training", arXiv 2010.03593.

    Args:
        depth: 6n + 4.
        width: Factor on the channels.
        activation: ``silu`` (Swish) in nearly all published checkpoints; the weights cannot tell.
        num_classes: Of the classifier.
        in_chans: Of the images.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        activation: Literal["relu", "silu"],
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        count = (depth - 4) // 6
        widths = _widths(width)
        self.activation = _ACTIVATIONS[activation]
        self.init_conv = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            *(
                _DeepMindGroup(count, widths[i], widths[i + 1], 2 if i else 1, self.activation)
                for i in range(3)
            )
        )
        self.batchnorm = nn.BatchNorm2d(widths[3])
        self.logits = nn.Linear(widths[3], num_classes)

    def forward(self, x: Tensor) -> Outputs:
        x = self.layer(self.init_conv(x))
        features = self.activation(self.batchnorm(x)).mean((2, 3))
        return Outputs(self.logits(features), features)
