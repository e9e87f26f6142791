"""Tiny networks and their files."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

LABELS = tuple("abcdefghij")


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives batch norms statistics and affine weights that are not the defaults, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))  # type: ignore[union-attr]
    return model.eval()


def tiny(name: str = "test_resnet", **args: object) -> nn.Module:
    """Builds a small timm network for ten classes."""
    torch.manual_seed(0)
    return randomised(cast(nn.Module, timm.create_model(name, num_classes=10, **args)))


def tiny_folder(folder: Path, *, channels: int = 1) -> nn.Module:
    """Writes a stock timm folder and returns the network in it; its statistics are 0.5 and 0.25."""
    model = tiny(in_chans=channels, output_stride=8)
    save_for_hf(
        model,
        folder,
        safe_serialization=True,
        model_config={"label_names": list(LABELS)},
        data_config={"mean": (0.5,) * channels, "std": (0.25,) * channels, "input_size": (channels, 32, 32)},
    )
    return model


def pixels(channels: int = 3, size: int = 32, count: int = 2) -> Tensor:
    """Returns random images in [0, 1]."""
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))
