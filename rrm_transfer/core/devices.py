"""Between host and device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a host's tensor to a device, beside the device's work and without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def spare_bytes(device: torch.device) -> int:
    """Returns how much of an accelerator's memory may hold what could stay on the host.

    It is half of what is free; 0 on a CPU, and where nobody knows what is free.
    """
    if device.type == "cpu":
        return 0
    ask: Callable[[torch.device], tuple[int, int]] | None = getattr(
        torch.get_device_module(device), "mem_get_info", None
    )
    return 0 if ask is None else ask(device)[0] // 2


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
