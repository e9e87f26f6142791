"""Between host and device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a host's tensor to a device, beside the device's work and without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def indexed(device: torch.device | str) -> torch.device:
    """Returns a device as a tensor on it names it: ``cuda`` with its number, ``cpu`` without."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.device("cpu")
    current = torch.accelerator.current_accelerator()
    if device.index is None and current is not None and current.type == device.type:
        return torch.device(device.type, torch.accelerator.current_device_index())
    return device
