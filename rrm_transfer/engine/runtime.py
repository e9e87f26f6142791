"""Processes, devices and precision: what accelerate gives, in the form that the engine uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn

from rrm_transfer.core.errors import UserError

Precision = Literal["float32", "bf16"]


def automatic_precision() -> Precision:
    """Returns bf16 where the device has instructions for it, else float32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return (
        "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
    )


class Runtime:
    """The processes of this run, each with its device.

    Precision is applied here and not by accelerate: accelerate patches the ``forward`` of the network
    that it prepares, and evaluation in float32 would inherit the patch.
    """

    def __init__(self) -> None:
        # A forward may run several times before one backward (clean and adversarial input), which the
        # broadcast of buffers before each forward does not allow; see `average_statistics`.
        kwargs = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[kwargs])

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def gather(self, values: list[Any]) -> list[Any]:
        """Returns the concatenated lists of all processes, on every process."""
        gathered: list[Any] = gather_object(values)
        return gathered

    def from_main(self, value: Any) -> Any:
        """Returns the main process's ``value`` on every process."""
        return self.gather([value])[0]

    def any(self, flag: bool) -> bool:
        """Tells whether ``flag`` holds on any process."""
        return flag if self.world == 1 else any(self.gather([flag]))

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        if precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def average_statistics(self, module: nn.Module) -> None:
        """Gives all processes the mean of their floating-point buffers (batch-norm statistics)."""
        if self.world == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.world)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Runs the block on the main process before the others."""
        with self.accelerator.main_process_first():
            yield

    def check_divisible(self, global_batch_size: int, accumulation: int) -> None:
        """Checks that every process and accumulation step gets images.

        Raises:
            UserError: The batch size does not divide.
        """
        if global_batch_size % self.world or global_batch_size // self.world < accumulation:
            raise UserError(
                f"A batch cannot be split over {self.world} processes and {accumulation} accumulation steps.",
                received=f"train.global_batch_size={global_batch_size}",
                allowed=f"multiples of {self.world}, at least {self.world * accumulation}",
            )
