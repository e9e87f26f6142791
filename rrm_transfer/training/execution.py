"""How a student is run while it trains: compiled, with gradient checkpointing, in memory that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rrm_transfer.core.errors import UserError


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


@contextmanager
def executing(student: nn.Module, *, compiled: bool, checkpointing: bool) -> Iterator[None]:
    """Runs the student compiled or with gradient checkpointing for the block.

    Raises:
        UserError: Its architecture has no gradient checkpointing.
    """
    if checkpointing:
        set_checkpointing(student, True)
    if compiled:
        student.compile()
    try:
        yield
    finally:
        student._compiled_call_impl = None  # what `compile` sets, and offers no way to take back
        if checkpointing:
            set_checkpointing(student, False)


@contextmanager
def uncompiled(student: nn.Module) -> Iterator[None]:
    """Runs a student plainly for the block, in which every other shape would be compiled anew."""
    compiled, student._compiled_call_impl = student._compiled_call_impl, None
    try:
        yield
    finally:
        student._compiled_call_impl = compiled


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
