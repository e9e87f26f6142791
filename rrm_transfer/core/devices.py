"""Between host and device."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a host's tensor to a device, beside the device's work and without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Returns numbers as a tensor, made once for each device: making one has the host wait for the device."""
    with torch.inference_mode(False):  # else nothing could be differentiated through it
        return torch.tensor(values, device=device)


def indexed(device: torch.device | str) -> torch.device:
    """Returns a device as a tensor on it names it: ``cuda`` with its number, ``cpu`` without."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.device("cpu")
    current = torch.accelerator.current_accelerator()
    if device.index is None and current is not None and current.type == device.type:
        return torch.device(device.type, torch.accelerator.current_device_index())
    return device
