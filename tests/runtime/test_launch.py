"""Launchers say who a process is in different words, some of them wrong ones."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.runtime.launch import Launch, find_launch, is_first

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the environment as it was, and without what a launcher of the tests may have said."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in list(os.environ):
        if name in {*TORCHRUN, *MEETING, "GLOO_SOCKET_IFNAME"} or name.startswith(
            ("SLURM_", "PMI_", "OMPI_")
        ):
            del os.environ[name]


@pytest.mark.parametrize(
    ("settings", "launcher"),
    [
        (TORCHRUN, "torchrun"),
        (OPEN_MPI, "mpirun"),
        (HYDRA, "mpirun"),
        (SRUN, "srun"),
        ({**SRUN, "WORLD_SIZE": "4"}, "srun"),  # as scripts export it
        ({**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}, "srun"),  # with --mpi=pmi2
        ({**OPEN_MPI, **SRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "mpirun"),  # one srun a node
        ({**TORCHRUN, **SRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "torchrun"),
    ],
)
def test_every_launcher_is_understood(settings: Mapping[str, str], launcher: str) -> None:
    os.environ.update(settings)
    assert find_launch() == Launch(launcher, 3, 4, 1, 2)
    assert not is_first()


@pytest.mark.parametrize("settings", [{}, BATCH_SCRIPT, {"WORLD_SIZE": "1"}])
def test_an_ordinary_start_is_one_process(settings: Mapping[str, str]) -> None:
    os.environ.update(settings)
    assert find_launch() == Launch()
    assert is_first()


@pytest.mark.parametrize("settings", [OPEN_MPI, HYDRA, SRUN])
def test_torch_and_accelerate_hear_of_it(settings: Mapping[str, str]) -> None:
    os.environ.update({**settings, **MEETING})
    find_launch().announce()
    assert {name: os.environ[name] for name in TORCHRUN} == TORCHRUN
    assert {name: os.environ[name] for name in MEETING} == MEETING
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert find_launch() == Launch("torchrun", 3, 4, 1, 2), "the same, whoever asks again"


def test_processes_of_one_machine_meet_there() -> None:
    os.environ.update({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    find_launch().announce()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("127.0.0.1", "29500")
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_those_of_several_machines_are_asked_where_they_meet() -> None:
    os.environ.update(SRUN)
    with pytest.raises(UserError, match="need to know where they meet") as caught:
        find_launch().announce()
    assert "export MASTER_ADDR=" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"RANK": "abc", "WORLD_SIZE": "2"}, "RANK=abc"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x"),
        ({"RANK": "9" * 5000, "WORLD_SIZE": "2"}, "RANK=" + "9" * 5000),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2"),
        ({"RANK": "1"}, "RANK=1, WORLD_SIZE=not set"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, and no RANK"),
        ({**SRUN, "WORLD_SIZE": "16"}, "WORLD_SIZE=16, and srun started 4"),
        ({**TORCHRUN, "LOCAL_RANK": ""}, "LOCAL_RANK="),
        ({**SRUN, "SLURM_PROCID": "x"}, "SLURM_PROCID=x"),
    ],
)
def test_what_contradicts_itself_is_told(settings: Mapping[str, str], received: str) -> None:
    os.environ.update(settings)
    with pytest.raises(UserError) as caught:
        find_launch()
    assert caught.value.received == received
    assert caught.value.hint is not None


def test_every_process_speaks_where_none_knows_which_it_is() -> None:
    os.environ.update({"RANK": "abc", "WORLD_SIZE": "2"})
    assert is_first()


@pytest.mark.parametrize(("local_world", "share"), [(1, 4), (2, 2), (8, 1), (None, 4)])
def test_processes_share_the_cores(
    local_world: int | None, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    launch = Launch("mpirun", 0, 8, 0, local_world)
    os.environ.pop("OMP_NUM_THREADS", None)
    assert launch.share_cores() == share
    assert os.environ["OMP_NUM_THREADS"] == str(share)
    assert launch.share_cores() is None, "told already"


def test_a_process_that_works_alone_is_refused() -> None:
    Launch("torchrun", 0, 2, 0, 2).check_started(2)
    Launch().check_started(1)
    with pytest.raises(UserError, match="torchrun was asked for 2 processes, and this one works as one of 1"):
        Launch("torchrun", 0, 2, 0, 2).check_started(1)
