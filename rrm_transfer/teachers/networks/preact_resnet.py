"""Pre-activation ResNets as robust CIFAR checkpoints have them."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rrm_transfer.core.outputs import Outputs


class _Block(nn.Module):
    """Two convolutions, each after its batch norm and ReLU.

    Args:
        in_channels: Of the input.
        channels: Of the output.
        stride: Of the first convolution.
        shortcut_of: What a projecting shortcut reads: the activated input, or the input itself. The weights
            cannot tell.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, shortcut_of: Literal["activation", "input"]
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut_of = shortcut_of
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu(self.bn1(x))
        projects = not isinstance(self.shortcut, nn.Identity) and self.shortcut_of == "activation"
        out = self.conv2(F.relu(self.bn2(self.conv1(activation))))
        total: Tensor = out + self.shortcut(activation if projects else x)
        return total


class PreActResNet18(nn.Module):
    """PreActResNet-18 for small images.

    He et al., "Identity mappings in deep residual networks", ECCV 2016, with a 3×3 stem. Published
    checkpoints differ in what the weights do not show; each variant is an architecture of its own.

    Args:
        num_classes: Of the classifier.
        in_chans: Of the images.
        final_norm: Whether a batch norm stands before the pooling.
        shortcut_of: See `_Block`.
        width: Channels of the first stage; the others have two, four and eight times as many.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        final_norm: bool,
        shortcut_of: Literal["activation", "input"],
        width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        channels = width
        for stage in range(4):
            blocks = []
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(_Block(channels, width * 2**stage, stride, shortcut_of))
                channels = width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels) if final_norm else None
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Outputs:
        x = self.conv1(x)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        if self.bn is not None:
            x = F.relu(self.bn(x))
        features = x.mean((2, 3))
        return Outputs(self.linear(features), features)
