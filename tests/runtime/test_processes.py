"""Two processes compute what one does; one of them writes and speaks; none outlives the other."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rrm_transfer.core.files import sha256_of
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.evaluation.metrics import read_metrics
from rrm_transfer.objectives.base import Step, Term
from rrm_transfer.objectives.matching import RRM
from rrm_transfer.runtime.processes import Runtime
from tests.data.fixtures import encode, noise
from tests.support import tiny
from tests.support.command import Command, Moment, command, free_port, together

UPDATE = "rrm_transfer.training.updating:Updater.update"
CHECKOUT = Path(__file__).resolve().parents[2]


def _final_state(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_file(run / "checkpoints" / "student-final" / "state.safetensors")
    return state


def _options(teacher: Path, data: Path, **changes: object) -> list[str]:
    sets = [part for key, value in changes.items() for part in ("--set", f"train.{key}={value}")]
    short = ["--no-control", "--skip-teacher-check", "--quiet", "--json"]
    return ["run", *tiny.recipe_options(teacher, data, student="test_vit"), *short, *sets]


def _codes(commands: list[Command]) -> list[int]:
    return [running.end().code for running in commands]


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_gradients_and_metrics_are_those_of_one_process(
    share: float, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """One step, after which the momentum is the gradient; the network has no batch statistics."""
    settings = {"epochs": 1, "global_batch_size": tiny.TRAIN, "optimizer": "momentum", "accumulation": 3}
    options = _options(tiny_teacher, tiny_data, **settings)
    if share:  # of which neither two processes nor three parts of a batch have equal counts
        np.savez(tmp_path / "extra.npz", image=noise(50, 28, 28))
        options += ["--set", "data.extra=extra.npz", "--set", f"data.extra_share={share}"]
        options += ["--objective", "kd", "--set", "objective.ce_weight=0.5"]
    alone = command(*options, "--output", "one", folder=tmp_path)
    assert alone.code == 0, alone.err
    first, second = (running.end() for running in together([*options, "--output", "two"], folder=tmp_path))
    assert (first.code, second.code) == (0, 0), first.err + second.err

    states = [_final_state(tmp_path / name) for name in ("one", "two")]
    gradients = [name for name in states[0] if name.endswith("momentum_buffer")]
    assert len(gradients) > 10
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-6)

    rows = [read_metrics(tmp_path / name / "metrics.json").rows for name in ("one", "two")]
    assert rows[0] == rows[1]
    losses = [_losses(tmp_path / name) for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert first.document["folder"] == "two"
    assert second.out == ""
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2


def _losses(run: Path) -> dict[str, float]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (losses,) = [event["losses"] for event in events if event["event"] == "step"]
    return {str(name): float(value) for name, value in losses.items()}


def test_the_first_process_lists_a_folder_for_all(tiny_teacher: Path, tmp_path: Path) -> None:
    """The other one would fail at the first folder that it looks into."""
    images, labels = tiny.quarters(60, seed=1)
    for part in ("data/train", "data/test", "more"):
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            file = tmp_path / part / str(label) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(pixels))
    options = _options(tiny_teacher, Path("data"), epochs=1, global_batch_size=20)
    options += ["--set", "data.extra=more", "--objective", "kd", "--set", "objective.ce_weight=0"]
    looking = Moment("rrm_transfer.data.folder_source:_folders", error=RuntimeError("it looked"))
    both = together([*options, "--output", "run"], folder=tmp_path, moments=[None, looking])
    first, second = (running.end() for running in both)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    alone = load_dataset_by_name(str(tmp_path / "data"))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {part: environment[part] for part in alone.identity} == alone.identity


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["--objective", "trades"],  # two passes through the student before one backward pass
        ["--objective", "rrm-adv", "--set", "objective.clean_feature_weight=1"],
        ["--set", "objective.ce_weight=0"],  # a classifier that is not trained
        ["--objective", "free-at", "--set", "objective.replays=2", "--set", "train.accumulation=2"],
        ["--objective", "igdm"],
        ["--set", "objective.gradient_weight=1"],  # a gradient of the image before that of the weights
        ["--set", "objective.student_layers=[blocks.0, -1]", "--set", "objective.teacher_layers=[layer2, 3]"],
        [
            "--objective",
            "rrm-adv",
            "--set",
            "objective.student_layers=0",
            "--set",
            "objective.freeze_classifier=true",
            "--set",
            "student.head=ridge",
        ],
        ["--objective", "rdt", "--set", "objective.steps=2"],
    ],
    ids=" ".join,
)
def test_objectives_of_every_kind_run_on_two_processes(
    settings: list[str], tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data, epochs=1), *settings, "--output", "run"]
    assert _codes(together(options, folder=tmp_path)) == [0, 0]


@pytest.mark.parametrize("student", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_a_killed_run_of_two_processes_goes_on_bit_for_bit(
    student: str, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data), "--student", student, "--resume"]
    assert _codes(together([*options, "--output", "alone"], folder=tmp_path)) == [0, 0]

    killed = together(
        [*options, "--output", "killed"], folder=tmp_path, moments=[None, Moment(UPDATE, 5, signal.SIGKILL)]
    )
    codes = _codes(killed)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL)  # brought down by the loss of the other

    refused = command(*options, "--output", "killed", folder=tmp_path)
    assert (refused.code, "processes: was 2, is now 1" in refused.err) == (2, True)

    assert _codes(together([*options, "--output", "killed"], folder=tmp_path)) == [0, 0]
    events = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resume"] == [4]
    first, second = (_final_state(tmp_path / name) for name in ("alone", "killed"))
    assert all(torch.equal(first[name], value) for name, value in second.items())
    weights = [sha256_of(tmp_path / n / "student" / "model.safetensors") for n in ("alone", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_killed_while_it_selects_goes_on_bit_for_bit(
    world: int, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """In bf16, with a moving average, batch statistics and selection."""
    options = _options(tiny_teacher, tiny_data, epochs=2, precision="bf16", ema=0.9)
    options += ["--student", "test_resnet", "--set", "data.held_out=0.25", "--resume", "--output"]
    # The teacher's clean and attacked batches come first, then the clean ones of the first evaluation.
    moment = Moment("rrm_transfer.evaluation.evaluator:Evaluator._attack", 1 + 4 // world)

    def run(output: str, moment: Moment | None = None) -> list[int]:
        moments = [None] * (world - 1) + [moment]
        # With figures that another run kept, fewer batches of the teacher would come first.
        settings: dict[str, Any] = {
            "folder": tmp_path,
            "environment": {"RRM_TRANSFER_CACHE": str(tmp_path / f"cache-{output}")},
        }
        if world == 1:
            return _codes([Command([*options, output], moment=moment, **settings)])
        return _codes(together([*options, output], moments=moments, **settings))

    assert run("alone") == [0] * world
    assert run("killed", moment)[-1] == -signal.SIGKILL
    before = _events(tmp_path / "killed")
    assert [event["event"] for event in before][-1] == "checkpoint"
    assert not [event for event in before if event["event"] == "selection"]
    assert run("killed") == [0] * world

    events = {name: _events(tmp_path / name) for name in ("alone", "killed")}
    assert [event["step"] for event in events["killed"] if event["event"] == "resume"] == [3]
    selections = {
        name: [
            {key: value for key, value in event.items() if key != "time"}
            for event in of
            if event["event"] == "selection"
        ]
        for name, of in events.items()
    }
    assert [selection["step"] for selection in selections["alone"]] == [3, 6]
    assert selections["alone"] == selections["killed"]
    first, second = (_final_state(tmp_path / name) for name in ("alone", "killed"))
    assert {name.split("/")[0] for name in first} == {"student", "optimizer", "average", "best"}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], value) for name, value in second.items())
    for folder in ("student", "student-best"):
        files = [tmp_path / name / folder / "model.safetensors" for name in ("alone", "killed")]
        assert sha256_of(files[0]) == sha256_of(files[1])


def _events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_of_two_processes_goes_on_with_one_when_told_to(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data, epochs=1, optimizer="sgd"), "--output", "run"]
    assert _codes(together([*options[:-1], "alone"], folder=tmp_path)) == [0, 0]
    stop = Moment(UPDATE, 2, signal.SIGTERM)
    assert _codes(together(options, folder=tmp_path, moments=[stop, None])) == [130, 130]
    ended = command(*options, "--resume-anyway", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 1
    first, second = (_final_state(tmp_path / name) for name in ("alone", "run"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)


def test_a_signal_to_one_process_stops_both_at_a_checkpoint(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data), "--output", "run"]
    stopped = together(options, folder=tmp_path, moments=[None, Moment(UPDATE, 5, signal.SIGTERM)])
    first, second = (running.end() for running in stopped)
    assert (first.code, second.code) == (130, 130), first.err + second.err
    assert (first.err + second.err).count("stopped: ") == 1
    assert (tmp_path / "run" / "checkpoints" / "student-00000005").is_dir()


def test_an_error_of_one_process_is_shown_once_and_ends_both(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data), "--output", "run"]
    bug = Moment(UPDATE, 2, error=ZeroDivisionError("a bug"))
    commands = together(options, folder=tmp_path, moments=[None, bug])
    commands[1].wait_for(lambda: False)
    first, second = (running.end() for running in commands)
    assert (first.code, second.code) == (1, 1)
    assert second.err.count("ZeroDivisionError: a bug") == 1
    assert (first.err + second.err).count("Traceback") == 1


def test_bad_steps_are_skipped_by_all_processes(tiny_teacher: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = [*_options(tiny_teacher, tiny_data, epochs=1), "--skip-bad-steps", "1", "--output", "run"]
    ended = [c.end() for c in together(options, folder=tmp_path, moments=[None, _BadLoss(UPDATE, 2)])]
    assert [e.code for e in ended] == [0, 0], ended[0].err + ended[1].err
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(e["step"], e["cause"]) for e in events if e["event"] == "skipped"] == [(2, "loss term 'ce'")]
    assert ended[0].document["timing"]["student"]["skipped_steps"] == 1


class _BadLoss(Moment):
    """Spoils the loss of one step on its process."""

    def arrange(self) -> None:
        original = RRM.__call__

        def spoilt(objective: RRM, step: Step) -> list[Term]:
            terms = original(objective, step)
            if step.progress == (self.count - 1) / 4:  # of four steps; passes are counted at the ends
                terms = [term._replace(value=term.value * math.nan) for term in terms]
            return terms

        setattr(RRM, "__call__", spoilt)  # noqa: B010


def test_a_problem_of_all_processes_is_told_once(tiny_teacher: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = [*_options(tiny_teacher, tiny_data, global_batch_size=15), "--output", "run"]
    first, second = (running.end() for running in together(options, folder=tmp_path))
    assert (first.code, second.code) == (2, 2)
    assert (first.err + second.err).count("cannot be split over 2 processes") == 1
    assert not (tmp_path / "run").exists()


def test_a_problem_of_one_process_is_told_and_ends_both(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    options = [*_options(tiny_teacher, tiny_data), "--output", "run"]
    held = Command(options, folder=tmp_path, moment=Moment(UPDATE, 1, signal.SIGSTOP))
    lock = tmp_path / "run" / ".rrm-transfer.lock"
    held.wait_for(lambda: lock.is_file() and lock.read_text(encoding="utf-8"))
    first, second = (running.end() for running in together([*options, "--resume"], folder=tmp_path))
    held.signal(signal.SIGKILL)
    held.end()
    assert first.code == 2
    assert second.code != 0
    assert (first.err + second.err).count("error: ") == 1
    assert "Traceback" not in first.err + second.err


LAUNCHERS = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}
SAID = ("ACCELERATE_", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM_", "FSDP_")


def _documented() -> list[str]:
    """Returns the documented lines that start two processes on the CPUs of one machine."""
    text = (CHECKOUT / "docs" / "how-to" / "many-gpus.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?:torchrun|accelerate launch) [^`\n]*-m rrm_transfer run\b[^`\n]*", text)
    return [line for line in lines if re.search(r"--(nproc_per_node|num_processes) 2 ", line)]


def _launch(line: str, options: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a documented line as it stands, its dots replaced, with no variable that the documents lack."""
    launcher, *words = shlex.split(line.replace("…", shlex.join(options)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SAID)}
    return subprocess.run(
        [sys.executable, "-m", LAUNCHERS[launcher], *words],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_documented_lines_start_two_processes_that_end_bit_for_bit(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    lines = _documented()
    assert [line.split()[0] for line in lines] == ["torchrun", "accelerate"]
    assert not {line for line in lines if "ACCELERATE" in line}
    _, *options = _options(tiny_teacher, tiny_data, epochs=1)
    weights = set()
    for number, line in enumerate(lines):
        ended = _launch(line, [*options, "--output", str(number)], tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["folder"] == str(number)
        environment = json.loads((tmp_path / str(number) / "environment.json").read_text())
        assert environment["processes"] == 2
        weights.add(sha256_of(tmp_path / str(number) / "student" / "model.safetensors"))
    assert len(weights) == 1


SRUN = "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))


@pytest.mark.parametrize("names", [SRUN, OPEN_MPI], ids=["srun", "mpirun"])
def test_other_launchers_start_two_processes(
    names: tuple[str, ...], tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*_options(tiny_teacher, tiny_data, epochs=1), "--output", "run"]
    port = {"MASTER_PORT": str(free_port())}
    commands = [
        Command(
            options,
            folder=tmp_path,
            environment={**port, **dict(zip(names, (str(rank), "2", str(rank), "2"), strict=True))},
        )
        for rank in range(2)
    ]
    first, second = (running.end() for running in commands)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.document["folder"] == "run"
    assert second.out == ""
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2


CONFIGURATION = """
compute_environment: LOCAL_MACHINE
distributed_type: "NO"
mixed_precision: "no"
num_machines: 1
num_processes: 2
use_cpu: true
"""
LOOK = """
from rrm_transfer.runtime.launch import find_launch

find_launch().check_started(1)
"""


def test_a_launcher_that_silently_starts_one_process_is_refused(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    _, *settings = _options(tiny_teacher, tiny_data, epochs=1)
    line = "accelerate launch --cpu --num_processes 2 -m rrm_transfer run … --output run"
    ended = _launch(line, settings, tmp_path)
    assert ended.returncode != 0
    assert "error: accelerate launch was asked for 2 processes" in ended.stderr
    assert "torchrun --nproc_per_node" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_so_is_one_whose_configuration_asks_for_several(tmp_path: Path) -> None:
    """The process does no more than look at who started it: that a run does is tried above."""
    (tmp_path / "two.yaml").write_text(CONFIGURATION)
    (tmp_path / "look.py").write_text(LOOK)
    ended = _launch("accelerate launch --config_file two.yaml look.py", [], tmp_path)
    assert ended.returncode != 0
    assert "accelerate launch was asked for several processes" in ended.stderr


def test_a_rank_that_is_no_number_is_told(tmp_path: Path) -> None:
    told = command("run", "--output", "run", folder=tmp_path, environment={"RANK": "abc", "WORLD_SIZE": "2"})
    assert (told.code, told.out) == (2, "")
    assert "received: RANK=abc" in told.err
    assert "Traceback" not in told.err


def test_processes_that_cannot_meet_are_told(tmp_path: Path) -> None:
    """Somebody else listens at the port: the first process cannot, and says where."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        told = command("run", "--output", "run", folder=tmp_path, environment=settings)
    assert told.code == 2, told.err
    assert "could not meet" in told.err
    assert f"127.0.0.1:{port}" in told.err
    assert "Traceback" not in told.err


def test_one_process_needs_no_communication() -> None:
    runtime = Runtime()
    assert (runtime.world, runtime.rank, runtime.is_main) == (1, 0, True)
    assert runtime.gather([1, 2]) == [1, 2]
    assert runtime.from_main({"a": 1}) == {"a": 1}
    assert [runtime.any(flag) for flag in (False, True)] == [False, True]
    assert torch.equal(runtime.mean(torch.ones(2)), torch.ones(2))


def test_a_leftover_of_another_job_does_not_scale_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    Runtime().accelerator.backward(weight.sum())
    assert weight.grad == 1
