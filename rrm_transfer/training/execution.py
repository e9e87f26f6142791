"""How a student is run while it trains: compiled, with gradient checkpointing, in memory that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rrm_transfer.core.errors import UserError
from rrm_transfer.objectives.base import Objective


def set_checkpointing(student: nn.Module, enabled: bool) -> None:
    """Has the student's activations computed again in the backward pass, or kept.

    Raises:
        UserError: The architecture cannot.
    """
    model: Any = getattr(student, "model", None)
    try:
        if not hasattr(model, "set_grad_checkpointing"):
            raise NotImplementedError
        model.set_grad_checkpointing(enabled)
    except (AssertionError, NotImplementedError, AttributeError):
        raise UserError(
            "This student has no gradient checkpointing.",
            received=getattr(student, "architecture", type(student).__name__),
            hint="--set train.accumulation=2, which also saves memory",
        ) from None


def can_replay(objective: Objective, *, device: torch.device, processes: int, accumulation: int) -> bool:
    """Tells whether a compiled step's launches can be replayed as one (CUDA graphs).

    What a graph writes lasts until the next one is begun, and a backward pass lets that happen. So no
    gradient may wait for another part of the batch or another process, and no attack may come between a
    forward pass and its backward pass.
    """
    whole = processes == 1 and accumulation == 1
    return device.type == "cuda" and whole and objective.replays == 1 and not objective.attacks


@contextmanager
def executing(
    student: nn.Module,
    *,
    compiled: bool,
    checkpointing: bool,
    teacher: nn.Module | None = None,
    replayed: bool = False,
) -> Iterator[None]:
    """Runs the student compiled or with gradient checkpointing for the block.

    Args:
        student: In training.
        compiled: Whether to compile it.
        checkpointing: Whether its activations are computed again in the backward pass.
        teacher: Compiled with it.
        replayed: Whether launches of what is compiled are replayed as one; see ``can_replay``.

    Raises:
        UserError: Its architecture has no gradient checkpointing.
    """
    if checkpointing:
        set_checkpointing(student, True)
    networks = [network for network in (student, teacher) if network is not None and compiled]
    for network in networks:
        network.compile(mode="reduce-overhead" if replayed else None)
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None  # what `compile` sets, and offers no way to take back
        if checkpointing:
            set_checkpointing(student, False)


@contextmanager
def uncompiled(*networks: nn.Module | None) -> Iterator[None]:
    """Runs networks plainly for the block, in which every other shape would be compiled anew."""
    before = [(network, network._compiled_call_impl) for network in networks if network is not None]
    for network, _ in before:
        network._compiled_call_impl = None
    try:
        yield
    finally:
        for network, compiled in before:
            network._compiled_call_impl = compiled


@contextmanager
def kept_statistics(student: nn.Module) -> Iterator[None]:
    """Undoes what the block does to batch statistics.

    Activations that are computed again would enter them twice.
    """
    norms = [module for module in student.modules() if isinstance(module, _NormBase)]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def out_of_memory(images: int, fits: int | None, batch: int) -> UserError:
    """Returns the error that tells what would fit.

    Args:
        images: In the forward pass that failed.
        fits: In one that was tried and succeeded, or None.
        batch: Images of this process in an optimizer step.
    """
    what = f"Memory ran out with {images} images in a forward pass"
    if fits is None:
        return UserError(
            f"{what}, and not even one fits.",
            hint="--set train.gradient_checkpointing=true, a smaller student or a smaller data.image_size",
        )
    return UserError(
        f"{what}; {fits} fit.",
        hint=f"--set train.accumulation={-(-batch // fits)}, which leaves the batch of an optimizer step "
        "as it is, or --set train.gradient_checkpointing=true",
    )


def compiler_error(error: RuntimeError) -> UserError | None:
    """Returns the error that tells why ``torch.compile`` failed, or None where it did not."""
    from torch._dynamo.exc import TorchDynamoException

    if not isinstance(error, TorchDynamoException):
        return None
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"torch.compile could not compile the student: {reason}",
        hint="--set train.compile=false",
    )
