"""Two machines, rehearsed: two network namespaces with a cable between them and folders of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from rrm_transfer.core.files import sha256_of
from tests.documentation.pages import ROOT, blocks
from tests.runtime.test_processes import SAID
from tests.support import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_PATIENCE_SECONDS = 600.0
"""For a start and a run on a busy machine."""


@pytest.fixture(scope="module")
def networks() -> Iterator[list[str]]:
    """Two namespaces with the addresses of the documented line; each sees itself and the other."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs iproute2 and root")
    names = [f"rrm-transfer-{os.getpid()}-{number}" for number in range(2)]
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        first, second = names
        cable = ["type", "veth", "peer", "name", "cable", "netns", second]
        _ip("link", "add", "cable", "netns", first, *cable)
        for number, name in enumerate(names, start=1):
            _ip("-n", name, "addr", "add", f"10.0.0.{number}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as problem:
        for name in made:
            _ip("netns", "del", name)
        pytest.skip(f"no network namespaces here: {problem.stderr.strip()}")
    yield names
    for name in names:
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _documented() -> list[str]:
    """Returns the words of the line that docs/how-to/many-gpus.md gives for several machines."""
    (line,) = (
        words
        for block in blocks(ROOT / "docs" / "how-to" / "many-gpus.md", "bash")
        for words in block.commands
        if "--num_machines" in words
    )
    return line


class Machines:
    """The documented line, started on both machines, each in a folder of its own."""

    def __init__(self, networks: list[str], folder: Path, options: list[str], **variables: str) -> None:
        self.folders = [folder / f"machine-{number}" for number in range(2)]
        launcher, *line = _documented()
        assert launcher == "accelerate"
        assert line[line.index("--main_process_ip") + 1] == "10.0.0.1"
        line[line.index("--num_processes") + 1] = "2"
        place = line.index("--recipe")
        line[place : place + 2] = options
        self._started = []
        for number, (network, own) in enumerate(zip(networks, self.folders, strict=True)):
            own.mkdir(parents=True, exist_ok=True)
            line[line.index("--machine_rank") + 1] = str(number)
            environment = {name: value for name, value in os.environ.items() if not name.startswith(SAID)}
            environment |= {"PYTHONPATH": str(ROOT), "RRM_TRANSFER_CACHE": str(own / "cache"), **variables}
            with (own / "out").open("w") as out, (own / "err").open("w") as err:
                python = ["ip", "netns", "exec", network, sys.executable, "-m"]
                self._started.append(
                    subprocess.Popen(
                        [*python, "accelerate.commands.accelerate_cli", *line],
                        cwd=own, env=environment, stdout=out, stderr=err,
                    )
                )  # fmt: skip

    @property
    def run(self) -> Path:
        """The run folder, on the machine that writes it."""
        return self.folders[0] / "runs" / "two-machines"

    @property
    def told(self) -> str:
        return "".join((folder / "err").read_text() for folder in self.folders)

    def end(self) -> list[int]:
        """Waits for both and returns their exit codes."""
        end = time.monotonic() + _PATIENCE_SECONDS
        try:
            return [process.wait(max(1.0, end - time.monotonic())) for process in self._started]
        except subprocess.TimeoutExpired:
            self._end_workers()
            raise AssertionError(f"a machine did not end:\n{self.told}") from None

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            running = all(process.poll() is None for process in self._started)
            if not running or time.monotonic() > end:
                self._end_workers()
                raise AssertionError(self.told)
            time.sleep(0.02)

    def kill(self, number: int) -> None:
        """Kills the process that trains on a machine; its launcher stays."""
        started = psutil.Process(self._started[number].pid).children()
        (worker,) = (process for process in started if "rrm_transfer" in process.cmdline())
        worker.send_signal(signal.SIGKILL)

    def _end_workers(self) -> None:
        for process in self._started:
            if process.poll() is None:
                for worker in psutil.Process(process.pid).children(recursive=True):
                    worker.kill()
                process.kill()
                process.wait()


def _options(teacher: Path, data: Path, *, epochs: int) -> list[str]:
    short = ["--no-control", "--skip-teacher-check", "--quiet", "--json"]
    return [*tiny.recipe_options(teacher, data, student="test_vit", epochs=epochs), *short]


def _events(run: Path) -> list[str]:
    log = run / "log.jsonl"
    if not log.exists():
        return []
    return [json.loads(line)["event"] for line in log.read_text().splitlines() if line.endswith("}")]


def test_two_machines_train_one_student_also_when_one_is_killed(
    networks: list[str], tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Each machine has its own folder and cache; only the first one's run folder is written."""
    options = _options(tiny_teacher, tiny_data, epochs=4)
    alone = Machines(networks, tmp_path / "alone", options)
    assert alone.end() == [0, 0], alone.told
    assert json.loads((alone.run / "environment.json").read_text())["processes"] == 2
    assert not (alone.folders[1] / "runs").exists()
    assert (alone.folders[1] / "out").read_text() == ""

    killed = Machines(networks, tmp_path / "killed", options)
    killed.wait_for(lambda: "checkpoint" in _events(killed.run))
    began = time.monotonic()
    killed.kill(1)
    assert 0 not in killed.end()
    assert time.monotonic() - began < 120
    assert not (killed.run / "metrics.json").exists()

    resumed = Machines(networks, tmp_path / "killed", options)
    assert resumed.end() == [0, 0], resumed.told
    assert "resume" in _events(resumed.run)
    weights = {sha256_of(each.run / "student" / "model.safetensors") for each in (alone, resumed)}
    assert len(weights) == 1


def test_what_the_machines_must_share_is_asked_for_before_work_begins(
    networks: list[str], tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data, epochs=1), "--set", "teacher.cache.views=1"]
    apart = Machines(networks, tmp_path / "apart", options)
    assert 0 not in apart.end()
    assert apart.told.count("error: A process does not see the files that another one wrote") == 1
    assert "RRM_TRANSFER_CACHE" in apart.told
    assert not [*tmp_path.glob("apart/*/cache/**/*.safetensors")]

    together = Machines(
        networks, tmp_path / "together", options, RRM_TRANSFER_CACHE=str(tmp_path / "shared-cache")
    )
    assert together.end() == [0, 0], together.told
    assert [*tmp_path.glob("shared-cache/**/*.safetensors")]
    assert not [*tmp_path.glob("shared-cache/**/.shared-*")]
