"""What a launcher says about this process, in the form in which torch and accelerate look for it."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import NamedTuple

from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime.cores import allowed_cores

_PORT = "29500"
"""Where processes meet if nobody says; torch's own choice."""

_DISTRIBUTED = "docs/how-to/many-gpus.md has the commands"
_ASKED = re.compile(r"launch\b.*?--num[-_]processes[= ](\d+)")


class _Dialect(NamedTuple):
    """The variables in which one kind of launcher speaks; those that must be there come first."""

    launcher: str
    rank: str
    world: str
    local_rank: str
    local_world: str


_TORCHRUN = _Dialect("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPI = (
    *(
        _Dialect("mpirun", f"{name}_RANK", f"{name}_SIZE", f"{name}_LOCAL_RANK", f"{name}_LOCAL_SIZE")
        for name in ("OMPI_COMM_WORLD", "MV2_COMM_WORLD")
    ),
    _Dialect("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# Of the step: a batch script has SLURM_NTASKS, too, and runs once.
_SRUN = _Dialect("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")


@dataclass(frozen=True)
class Launch:
    """This process among those that a launcher started.

    Attributes:
        launcher: Which one; empty: none, this is an ordinary start.
        rank: This process's number.
        world: How many there are.
        local_rank: Its number on this machine.
        local_world: How many are on this machine, None where the launcher does not tell.
    """

    launcher: str = ""
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int | None = 1

    def announce(self) -> None:
        """Sets the variables that torch and accelerate read; accelerate knows neither srun nor GPUs' mpirun.

        Raises:
            UserError: Nobody says where the processes of several machines meet.
        """
        if self.world == 1:
            return
        address = os.environ.get("MASTER_ADDR")
        if not address:
            if self.local_world != self.world:
                raise UserError(
                    "Processes of several machines need to know where they meet.",
                    received=f"{self.world} processes of {self.launcher}, no MASTER_ADDR",
                    hint="export MASTER_ADDR=<the first machine's address>; " + _DISTRIBUTED,
                )
            address = "127.0.0.1"
        port = os.environ.get("MASTER_PORT") or _PORT
        os.environ.update({"MASTER_ADDR": address, "MASTER_PORT": port})
        os.environ.update({"RANK": str(self.rank), "WORLD_SIZE": str(self.world)})
        os.environ["LOCAL_RANK"] = str(self.local_rank)
        if self.local_world is not None:
            os.environ["LOCAL_WORLD_SIZE"] = str(self.local_world)
        if self.local_world != self.world and "GLOO_SOCKET_IFNAME" not in os.environ:
            # Gloo would take the address of this machine's name, which often is that of no network.
            interface = _interface_towards(address)
            if interface is not None:
                os.environ["GLOO_SOCKET_IFNAME"] = interface

    def share_cores(self) -> int | None:
        """Returns how many threads this process should use on a CPU, None where it has been told."""
        if self.world == 1 or os.environ.get("OMP_NUM_THREADS"):
            return None
        threads = max(1, len(allowed_cores()) // (self.local_world or 1))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        return threads

    def check_started(self, found: int) -> None:
        """Checks that as many processes work together as were asked for.

        Args:
            found: How many work together.

        Raises:
            UserError: Others were asked for; each of them would do the whole work.
        """
        if self.launcher:
            launcher, asked = self.launcher, str(self.world)
        else:
            launcher, asked = "accelerate launch", _asked_of_accelerate() or "1"
        if asked != str(found):
            number = asked if asked.isdigit() else "N"
            raise UserError(
                f"{launcher} was asked for {asked} processes, and this one works as one of {found}.",
                hint=f"on CPUs: torchrun --nproc_per_node {number} -m rrm_transfer …, or accelerate launch "
                f"--multi_gpu --num_processes {number} -m rrm_transfer … (ACCELERATE_USE_CPU=true in front "
                "of either where there are accelerators); for one process: --num_processes 1",
            )


def find_launch() -> Launch:
    """Returns what the launcher says.

    A variable of torchrun's counts first, as it may itself have been started by one of the others.

    Raises:
        UserError: It contradicts itself.
    """
    _number(_TORCHRUN.local_rank)  # accelerate reads it, too, in an ordinary start
    if _TORCHRUN.rank in os.environ:
        return _read(_TORCHRUN)
    found = Launch()
    for dialect in (*_MPI, _SRUN):
        if {dialect.rank, dialect.world, dialect.local_rank} <= os.environ.keys():
            found = _read(dialect)
            break
    else:
        if {"PMI_RANK", "PMI_SIZE"} <= os.environ.keys():
            found = _read(_MPI[-1])
    promised = _number(_TORCHRUN.world)
    if promised not in (None, found.world):
        started = f"{found.launcher} started {found.world}" if found.launcher else "no RANK"
        raise UserError(
            "WORLD_SIZE says otherwise than the launcher.",
            received=f"WORLD_SIZE={promised}, and {started}",
            hint=f"leave WORLD_SIZE to the launcher; {_DISTRIBUTED}",
        )
    return found


def is_first() -> bool:
    """Tells whether this is the process that speaks; each one is that cannot know."""
    try:
        return find_launch().rank == 0
    except UserError:
        return True


def _read(dialect: _Dialect) -> Launch:
    rank, world = _number(dialect.rank), _number(dialect.world)
    assert rank is not None
    if world is None or not 0 <= rank < world:
        raise UserError(
            f"What {dialect.launcher} says of this process cannot be.",
            received=f"{dialect.rank}={rank}, {dialect.world}={'not set' if world is None else world}",
            allowed=f"{dialect.world} processes, numbered from 0 by {dialect.rank}",
            hint=f"unset both for an ordinary start; {_DISTRIBUTED}",
        )
    local_world = _tasks_here() if dialect is _SRUN else _number(dialect.local_world)
    return Launch(dialect.launcher, rank, world, _number(dialect.local_rank) or 0, local_world)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.strip().isdecimal() or len(text) > 9:
        raise UserError(
            "The launcher's variable is not a number.",
            received=f"{variable}={text}",
            allowed="a whole number, 0 or more",
            hint=f"unset {variable} for an ordinary start; {_DISTRIBUTED}",
        )
    return int(text)


def _tasks_here() -> int | None:
    """Reads ``2(x3),1``: two tasks on each of three machines and one on the fourth."""
    machines: list[int] = []
    for tasks, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", os.environ.get(_SRUN.local_world, "")):
        machines += [int(tasks)] * int(times or 1)
    here = _number("SLURM_NODEID") or 0
    return machines[here] if here < len(machines) else None


def _asked_of_accelerate() -> str | None:
    """Tells how many processes ``accelerate launch`` was asked for where it started this one alone.

    It does so silently on CPUs. Its configuration file may have asked for several; then it sets a port.
    """
    import psutil  # type: ignore[import-untyped]

    try:
        parent = psutil.Process().parent()
        if parent is None:
            return None
        asked = _ASKED.search(" ".join(parent.cmdline()))
        if asked is not None:
            return asked[1]
        given = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
        theirs = parent.environ() if given else {}
    except psutil.Error:
        return None
    if given and not {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} & theirs.keys():
        return "several"
    return None


def _interface_towards(address: str) -> str | None:
    """Finds the network interface by which this machine reaches another, or itself."""
    import psutil

    try:
        family, kind, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.split("%")[0] == own for each in addresses):
            return str(name)
    return None
