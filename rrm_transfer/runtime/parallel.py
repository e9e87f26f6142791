"""Forms in which several processes train a student: weights shared out (FSDP2), synchronised batch norms."""

from __future__ import annotations

import copy
import os

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _NormBase


def shard(student: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Returns a copy whose weights, gradients and optimizer state the processes of ``mesh`` hold in parts.

    Args:
        student: The same on every process; left as it is.
        mesh: One-dimensional.
    """
    sharded = copy.deepcopy(student).to(memory_format=torch.contiguous_format)
    free = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
    for block in blocks(sharded):
        fully_shard(block, mesh=mesh, reshard_after_forward=free)
    fully_shard(sharded, mesh=mesh, reshard_after_forward=free)
    return sharded


def blocks(network: nn.Module) -> list[nn.Module]:
    """Finds what is gathered and freed as one: the repeated parts of a network, inner ones first.

    timm keeps them as children of one class, with children of their own, in a sequence: the blocks of a
    transformer, the stages of a convolutional network and the blocks in them.
    """
    found: dict[nn.Module, None] = {}
    for sequence in network.modules():
        children = list(sequence.children())
        if (
            isinstance(sequence, (nn.Sequential, nn.ModuleList))
            and len({type(child) for child in children}) == 1
            and all(next(child.children(), None) is not None for child in children)
        ):
            found |= dict.fromkeys(children)
    return list(found)[::-1]


def synchronise_statistics(student: nn.Module) -> nn.Module:
    """Returns a copy whose batch norms normalize by the statistics of all processes' images."""
    synchronised: nn.Module = convert_sync_batchnorm(copy.deepcopy(student))
    return synchronised


def batch_statistics(network: nn.Module) -> list[Tensor]:
    """Finds the running means and variances of a network's batch norms, ``(C,)`` each."""
    norms = [m for m in network.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    return [buffer for m in norms for buffer in (m.running_mean, m.running_var) if buffer is not None]


def whole(tensor: Tensor) -> Tensor:
    """Returns all of a tensor that processes may hold in parts; all processes call it together."""
    if isinstance(tensor, DTensor):
        gathered: Tensor = tensor.full_tensor()
        return gathered
    return tensor


def own_part(tensor: Tensor) -> Tensor:
    """Returns what this process holds of a tensor."""
    if isinstance(tensor, DTensor):
        part: Tensor = tensor.to_local()
        return part
    return tensor


def in_the_form_of(value: Tensor, like: Tensor) -> Tensor:
    """Returns a copy of ``value`` on the device, in the memory format and shared out as ``like`` is."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    # Another memory format takes other kernels, which may round otherwise.
    return torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
