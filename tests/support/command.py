"""The command line in processes of its own, forked from one that has imported everything already."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_PATIENCE_SECONDS = 120.0
_COST = "RRM_TRANSFER_TEST_COST"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.warm"])


class Ended(NamedTuple):
    """How a command ended: its exit code (negative: killed by that signal) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed: standard output must be one JSON document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Moment:
    """A call in the command's process, at the end of which it gets a signal, or which fails.

    Attributes:
        function: ``package.module:name`` or ``package.module:Class.name``.
        count: Which call.
        signal: What it gets.
        error: Raised in the place of this call and of all later ones, instead of the signal.
    """

    function: str
    count: int = 1
    signal: signal.Signals = signal.SIGKILL
    error: Exception | None = None

    def arrange(self) -> None:
        """Replaces the function in this process by one that does so."""
        module, _, path = self.function.partition(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        original, calls = getattr(owner, name), itertools.count(1)

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            number = next(calls)
            if self.error is not None and number >= self.count:
                raise self.error
            result = original(*args, **kwargs)
            if self.error is None and number == self.count:
                signal.raise_signal(self.signal)
            return result

        setattr(owner, name, replacement)


class Command:
    """``rrm-transfer ARGUMENTS``, started."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        moment: Moment | None = None,
    ) -> None:
        self._streams = Path(tempfile.mkdtemp(prefix="streams-", dir=folder))
        self._process = _context.Process(
            target=_main, args=(list(arguments), folder, self._streams, dict(environment or {}), moment)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_for(self, condition: Any) -> None:
        """Waits until ``condition()`` holds or the command has ended."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while self.running and not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)

    def end(self) -> Ended:
        """Waits for the end."""
        self._process.join(_PATIENCE_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"the command did not end:\n{self._read('err')}")
        return Ended(self._process.exitcode, self._read("out"), self._read("err"))

    def _read(self, name: str) -> str:
        return (self._streams / name).read_text(encoding="utf-8")


def command(
    *arguments: str,
    folder: Path,
    moment: Moment | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Runs ``rrm-transfer ARGUMENTS`` in ``folder`` to its end."""
    return Command(arguments, folder=folder, moment=moment, environment=environment).end()


@dataclass(frozen=True)
class Cost:
    """What a command took once everything was imported.

    Attributes:
        seconds: Of the processor.
        megabytes: At most, above what the process had before.
    """

    seconds: float
    megabytes: float


def costing(*arguments: str, folder: Path) -> tuple[Ended, Cost]:
    """Runs ``rrm-transfer ARGUMENTS`` in ``folder`` to its end, and measures it."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        ended = Command(arguments, folder=folder, environment={_COST: said.name}).end()
        return ended, Cost(*json.load(said))


def _peak() -> int:
    """Returns the most kilobytes that this process has had since it was last asked to forget."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def _measured(run: Callable[[], None], place: Path) -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    begun, before = time.process_time(), _peak()
    try:
        run()
    finally:
        cost = time.process_time() - begun, (_peak() - before) / 1024
        place.write_text(json.dumps(cost), encoding="utf-8")


def free_port() -> int:
    """Finds a port at which processes can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(
    arguments: Sequence[str],
    *,
    folder: Path,
    world: int = 2,
    moments: Sequence[Moment | None] = (None, None),
    environment: Mapping[str, str] | None = None,
) -> list[Command]:
    """Starts one command on ``world`` processes, as torchrun does; ``moments`` are the ranks'."""
    common = {
        **(environment or {}),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        Command(
            arguments,
            folder=folder,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            moment=moments[rank],
        )
        for rank in range(world)
    ]


def _main(
    arguments: list[str], folder: Path, streams: Path, environment: dict[str, str], moment: Moment | None
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(streams / name, os.O_CREAT | os.O_WRONLY), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["rrm-transfer", *arguments]
    if moment is not None:
        moment.arrange()
    from rrm_transfer.cli.app import main

    if _COST in environment:
        _measured(main, Path(environment[_COST]))
    else:
        main()
