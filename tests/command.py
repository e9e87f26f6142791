"""The command line in processes of its own, forked from one that has imported everything already."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_PATIENCE_SECONDS = 120.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["rrm_transfer.api", "rrm_transfer.cli.app", "rrm_transfer.report.table"])


class Ended(NamedTuple):
    """How a command ended: its exit code (negative: killed by that signal) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed: standard output must be one JSON document."""
        return json.loads(self.out)


class Command:
    """``rrm-transfer ARGUMENTS``, started."""

    def __init__(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._streams = Path(tempfile.mkdtemp(prefix="streams-", dir=folder))
        self._process = _context.Process(
            target=_main, args=(list(arguments), folder, self._streams, dict(environment or {}))
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


def command(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs ``rrm-transfer ARGUMENTS`` in ``folder`` to its end."""
    return Command(arguments, folder=folder, environment=environment).end()


def together(arguments: Sequence[str], *, folder: Path, port: int, world: int = 2) -> list[Command]:
    """Starts one command on ``world`` processes, as torchrun does."""
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        Command(
            arguments,
            folder=folder,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
        )
        for rank in range(world)
    ]


def _main(arguments: list[str], folder: Path, streams: Path, environment: dict[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(streams / name, os.O_CREAT | os.O_WRONLY), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["rrm-transfer", *arguments]
    from rrm_transfer.cli.app import main

    main()
