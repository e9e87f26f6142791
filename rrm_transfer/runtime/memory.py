"""Memory that runs out: how it is recognised, and what would have fit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from rrm_transfer.core.errors import UserError

_CPU_ALLOCATION = "DefaultCPUAllocator"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether memory could not be had, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_ALLOCATION in str(error)


def release_memory(device: torch.device) -> None:
    """Gives back to the device what torch keeps for later; ``torch.accelerator`` cannot before 2.9."""
    empty_cache: Callable[[], None] | None = getattr(torch.get_device_module(device), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()


def largest_fitting(images: int, attempt: Callable[[int], object], device: torch.device) -> int | None:
    """Looks for the largest half, quarter, … of ``images`` that there is memory for.

    Args:
        images: There was no memory for so many.
        attempt: Tries with fewer.
        device: Where.

    Returns:
        None if not even one fits.
    """
    fits = images // 2
    while fits:
        release_memory(device)
        try:
            attempt(fits)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what was allocated
        else:
            return fits
        fits //= 2
    return None


@contextmanager
def advising_batch_size(
    images: int, attempt: Callable[[int], object], device: torch.device
) -> Iterator[None]:
    """Explains what to do where memory runs out without training: in evaluation, selection and caches.

    Args:
        images: In a forward pass of the block.
        attempt: Tries with fewer.
        device: Where.

    Raises:
        UserError: It did.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        fits = largest_fitting(images, attempt, device)
        what = f"Memory ran out with {images} images in a forward pass outside training"
        if fits is None:
            raise UserError(
                f"{what}, and not even one fits.", hint="a smaller network or a smaller data.image_size"
            ) from None
        raise UserError(
            f"{what}; {fits} fit.",
            hint=f"--set evaluate.batch_size={fits}, with --resume-anyway where a run has begun; of "
            f"rrm-transfer evaluate: --batch-size {fits}",
        ) from None
