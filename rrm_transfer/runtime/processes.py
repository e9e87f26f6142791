"""Processes, devices and precision: what accelerate gives, in the form that the engine uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import psutil  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.modules.batchnorm import _NormBase

from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime.parallel import (
    shard,
    sharding_asked_for,
    synchronise_statistics,
    unsharded_accelerate,
)

T = TypeVar("T")
Precision = Literal["float32", "bf16"]

_PATIENCE = timedelta(days=1)
"""How long processes wait for one that downloads data or works on the last part of an attack."""

_LAUNCHED = re.compile(r"launch\b.*?--num[-_]processes[= ](\d+)")


class Runtime:
    """The processes of this run, each with its device.

    Precision is applied here and not by accelerate: accelerate patches the ``forward`` of the network
    that it prepares, and evaluation in float32 would inherit the patch.

    Attributes:
        sharding: Whether the processes hold a student in parts.

    Raises:
        UserError: accelerate is configured for what is not supported.
    """

    def __init__(self) -> None:
        asked = sharding_asked_for()
        # A forward may run several times before one backward (clean and adversarial input), which the
        # broadcast of buffers before each forward does not allow; see `average_statistics`.
        handlers = [
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=_PATIENCE),
        ]
        # Said here because accelerate would else take it from the environment and divide every loss by it.
        whole = GradientAccumulationPlugin(num_steps=1)
        with unsharded_accelerate():
            self.accelerator = Accelerator(
                mixed_precision="no", kwargs_handlers=handlers, gradient_accumulation_plugin=whole
            )
        self.sharding = asked and self.world > 1

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

    @property
    def has_bf16(self) -> bool:
        """Whether this is a GPU that computes in bf16."""
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported()

    def synchronise(self) -> None:
        """Waits until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def gather(self, values: list[Any]) -> list[Any]:
        """Returns the concatenated lists of all processes, on every process."""
        gathered: list[Any] = gather_object(values)
        return gathered

    def from_main(self, value: Any) -> Any:
        """Returns the main process's ``value`` on every process."""
        return broadcast_object_list([value])[0]

    def on_main(self, ask: Callable[[], T]) -> T:
        """Returns on every process what ``ask`` returns on the main one, whose files the others need not see.

        Raises:
            UserError: ``ask`` raised one.
        """
        answer: T | UserError | None = None
        if self.is_main:
            try:
                answer = ask()
            except UserError as error:
                answer = UserError(str(error))
        answer = self.from_main(answer)
        if isinstance(answer, UserError):
            raise answer
        return cast(T, answer)

    def any(self, flag: bool) -> bool:
        """Tells whether ``flag`` holds on any process."""
        if self.world == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of the processes' floating-point ``value``, on every process."""
        if self.world == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.world

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        if precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def training_form(self, module: nn.Module, *, sync_batchnorm: bool) -> nn.Module:
        """Returns ``module`` on the device, or what is trained in its place where processes share more."""
        if sync_batchnorm:
            module = synchronise_statistics(module)
        if self.sharding:
            return shard(module, init_device_mesh(self.device.type, (self.world,)))
        return module.to(self.device)

    @contextmanager
    def prepared(self, module: nn.Module) -> Iterator[nn.Module]:
        """Gives ``module`` with its gradients synchronised over the processes."""
        if self.sharding:
            yield module
            return
        try:
            yield self.accelerator.prepare_model(module)
        finally:
            self.accelerator.free_memory()

    def average_statistics(self, module: nn.Module) -> None:
        """Gives all processes the mean of their batch-norm statistics."""
        if self.world == 1:
            return
        norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
        buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        if buffers:
            means = torch.split(self.mean(torch.cat(buffers)), [len(buffer) for buffer in buffers])
            for buffer, value in zip(buffers, means, strict=True):
                buffer.copy_(value)

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

    def check_whole(self) -> None:
        """Checks that every process holds the whole student in training.

        Raises:
            UserError: It is shared out.
        """
        if self.sharding:
            raise UserError(
                "Averaged weights and selection need a whole student on each process; FSDP2 shares it out.",
                hint="train.ema=null, train.average_epochs=null and data.held_out=0, or no FSDP",
            )

    def check_sync_batchnorm(self) -> None:
        """Checks that batch norms can be synchronised.

        Raises:
            UserError: This is not a GPU.
        """
        if self.device.type != "cuda":
            raise UserError(
                "Batch norms are synchronised on GPUs only.",
                received=f"train.sync_batchnorm=true on {self.device.type}",
                hint="leave it out: the processes then average their statistics after each step",
            )

    def launch_warning(self) -> str | None:
        """Tells of a launcher that was asked for more processes than it started, which it does silently."""
        parent = psutil.Process().parent()
        try:
            command = "" if parent is None else " ".join(parent.cmdline())
        except psutil.Error:
            return None
        asked = _LAUNCHED.search(command)
        if self.world > 1 or asked is None or int(asked[1]) == 1:
            return None
        return (
            f"accelerate launch was asked for {asked[1]} processes and started one. On CPU: torchrun "
            f"--nproc_per_node {asked[1]} -m rrm_transfer …, or ACCELERATE_USE_CPU=true accelerate launch "
            f"--multi_gpu --num_processes {asked[1]} -m rrm_transfer …"
        )
