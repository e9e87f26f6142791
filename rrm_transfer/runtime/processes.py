"""Processes, devices and precision: what accelerate gives, in the form that the engine uses."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from uuid import uuid4

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from rrm_transfer.core.devices import indexed
from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime.configuration import read_configuration, unsharded_accelerate
from rrm_transfer.runtime.cores import Cores, decoding_workers
from rrm_transfer.runtime.launch import Launch, find_launch
from rrm_transfer.runtime.parallel import shard, synchronise_statistics

T = TypeVar("T")
Precision = Literal["float32", "bf16"]

_STEP = timedelta(minutes=30)
"""How long processes wait for each other in a step, which takes all of them the same; also at the start."""

_PATIENCE = timedelta(days=1)
"""How long processes wait for one that downloads data or works on the last part of an attack."""

_VISIBLE_SECONDS = 60.0
"""Longer than a network's file system remembers that a file was absent (NFS: 30 s unless set otherwise)."""
_LOOK_SECONDS = 0.5


class Runtime:
    """The processes of this run, each with its device.

    Precision is applied here and not by accelerate: accelerate patches the ``forward`` of the network
    that it prepares, and evaluation in float32 would inherit the patch.

    Attributes:
        asked: What accelerate's configuration asks for.
        device: With its index, as that of a tensor on it.
        sharding: Whether the processes hold a student in parts.

    Raises:
        UserError: accelerate is configured for what is not supported, the launcher contradicts itself, or not
            all processes that it was asked for work together.
    """

    def __init__(self) -> None:
        launch = find_launch()
        self.asked = read_configuration()
        launch.announce()
        # Without it accelerate takes no notice of a launcher where there is no accelerator.
        on_cpus = launch.world > 1 and not torch.accelerator.is_available()
        if on_cpus and (threads := launch.share_cores()) is not None:
            torch.set_num_threads(threads)
        # A forward may run several times before one backward (clean and adversarial input), which the
        # broadcast of buffers before each forward does not allow; see `average`.
        handlers = [
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=_STEP),
        ]
        # Said here because accelerate would else take it from the environment and divide every loss by it.
        whole = GradientAccumulationPlugin(num_steps=1)
        with unsharded_accelerate(), _meeting(launch):
            self.accelerator = Accelerator(
                cpu=on_cpus,
                mixed_precision="no",
                dynamo_backend="no",
                kwargs_handlers=handlers,
                gradient_accumulation_plugin=whole,
            )
            if self.world > 1:
                _patient_group(dist.group.WORLD)  # here, where none of them keeps the others waiting
        launch.check_started(self.world)
        self.device = indexed(self.accelerator.device)
        self.sharding = self.asked.sharding and self.world > 1

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

    @property
    def notices(self) -> list[str]:
        """What of the launch the user should know, a line each."""
        lines = []
        if self.asked.ignored:
            lines.append(f"accelerate's configuration, without effect here: {', '.join(self.asked.ignored)}")
        accelerators = torch.accelerator.device_count()
        if self.world == 1 and self.device.type != "cpu" and accelerators > 1:
            lines.append(
                f"{accelerators} accelerators are visible and one is used; all: accelerate launch "
                f"--num_processes {accelerators} -m rrm_transfer …"
            )
        return lines

    @cached_property
    def decoding_workers(self) -> int:
        """How many processes should decode for each of these; all of them ask together."""
        return decoding_workers(self.gather([Cores.of_this_process()]))

    def seed(self, value: int) -> None:
        """Seeds the generators of this process; ``torch.manual_seed`` does those of all devices, slowly."""
        torch.default_generator.manual_seed(value)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(value)

    def synchronise(self) -> None:
        """Waits until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    @property
    def _patient(self) -> dist.ProcessGroup:
        """The processes over connections that fail with a process and otherwise wait long."""
        return _patient_group(dist.group.WORLD)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self._patient)

    def gather(self, values: list[Any]) -> list[Any]:
        """Returns the concatenated lists of all processes, on every process."""
        if self.world == 1:
            return values
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, values, group=self._patient)
        return [value for part in parts for value in part]

    def from_main(self, value: Any) -> Any:
        """Returns the main process's ``value`` on every process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._patient)
        return box[0]

    def on_main(self, ask: Callable[[], T]) -> T:
        """Returns on every process what ``ask`` returns on the main one, whose files the others need not see.

        Raises:
            UserError: ``ask`` raised one.
        """
        if self.world == 1:
            return ask()
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

    def average(self, statistics: Sequence[Tensor]) -> None:
        """Gives all processes the mean of their batch-norm statistics; see ``batch_statistics``."""
        if self.world > 1 and statistics:
            means = self.mean(torch.cat(list(statistics)))
            parts = torch.split(means, [len(each) for each in statistics])
            torch._foreach_copy_(list(statistics), list(parts))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Runs the block on the main process before the others."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def check_shared(self, folder: Path, *, hint: str) -> None:
        """Checks, before work is shared out, that all processes see what one of them writes into a folder.

        Raises:
            UserError: One does not.
        """
        if self.world == 1:
            return
        name = self.from_main(f".shared-{uuid4().hex}")
        if self.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        self.barrier()
        try:
            self.check_visible([folder / name], hint=hint)
        finally:
            if self.is_main:
                (folder / name).unlink(missing_ok=True)

    def check_visible(self, files: Sequence[Path], *, hint: str) -> None:
        """Checks that all processes see files that they wrote; a network's file system may show them late.

        Raises:
            UserError: One does not.
        """
        unseen = _unseen(files)
        if any(self.gather([len(unseen)])):
            raise UserError(
                "A process does not see the files that another one wrote.",
                received=unseen[0] if unseen else files[0].parent,
                hint=hint,
            )

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
                hint="train.ema=null, train.average_epochs=null and train.select_every=null, or no FSDP",
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


def _unseen(files: Sequence[Path]) -> list[Path]:
    """Returns the files that this process does not see, though it waits for them."""
    end = time.monotonic() + _VISIBLE_SECONDS
    while True:
        unseen = [file for file in files if not file.is_file()]
        if not unseen or time.monotonic() >= end:
            return unseen
        for folder in {file.parent for file in unseen}:
            with suppress(OSError):
                list(folder.iterdir())  # has NFS ask again for what it remembers as absent
        time.sleep(_LOOK_SECONDS)


@cache
def _patient_group(everyone: object) -> dist.ProcessGroup:
    # Its other type is for processes that are left out, of which there are none.
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_PATIENCE))


@contextmanager
def _meeting(launch: Launch) -> Iterator[None]:
    """Explains why processes could not find each other."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if launch.world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"The {launch.world} processes could not meet: {str(error).splitlines()[0]}",
            received=f"process {launch.rank} at MASTER_ADDR:MASTER_PORT {place}",
            hint="another port where that one is taken (--main_process_port, --master_port); an address that "
            "all machines reach, over the interface that GLOO_SOCKET_IFNAME names",
        ) from error
