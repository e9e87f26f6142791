"""Every wrong input of a run: one clear message, exit code 2, and nothing written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rrm_transfer.core.files import sha256_of
from tests.cli.conftest import Cli
from tests.data.fixtures import write_class_folders
from tests.support import tiny
from tests.support.command import command
from tests.teachers.fixtures import tiny_folder

CASES: dict[str, tuple[list[str], list[str]]] = {
    "teacher": (["--teacher", "fashion_mnist_lnf"], ["Unknown model", "fashion_mnist_linf"]),
    "teacher's file": (["--teacher", "missing.pt"], ["no such weights file", "missing.pt"]),
    "continued and replaced": (["--resume", "--overwrite"], ["not both", "--resume continues it"]),
    "student": (["--student", "test_resnot"], ["test_resnet"]),
    "data set": (["--dataset", "fashion-mnist-mni"], ["fashion-mnist-mini"]),
    "data folder": (["--dataset", "./missing"], ["./missing"]),
    "objective": (["--objective", "rmm"], ["Unknown objective", "did you mean rrm"]),
    "objective argument": (
        ["--set", "objective.ce_wieght=1"],
        ["objective.ce_wieght", "did you mean ce_weight"],
    ),
    "student's layer": (
        ["--set", "objective.student_layers=blocks.9", "--skip-teacher-check"],
        ["blocks.9", "act1, layer1, layer2, layer3, layer4"],
    ),
    "teacher's layer": (
        ["--set", "objective.student_layers=layer1", "--set", "objective.teacher_layers=9"],
        ["The teacher", "no such layer", "0 to 4"],
    ),
    "recipe": (["--recipe", "quikstart"], ["Unknown recipe", "quickstart"]),
    "recipe file": (["--recipe", "missing.yaml"], ["Unknown recipe", "missing.yaml"]),
    "recipe key": (["--set", "train.eposch=1"], ["train.eposch: unknown key", "epochs"]),
    "recipe value": (["--set", "threat.eps=8/0"], ["threat.eps", "8/0"]),
    "recipe list": (["--set", "evaluate.eps=8/255"], ["evaluate.eps: should be a list", "8/255"]),
    "override": (["--set", "train.epochs"], ["Not an override", "key.subkey=value"]),
    "optimizer": (["--set", "train.optimizer=adamv"], ["Unknown optimizer", "adamw"]),
    "optimizer without a learning rate": (
        ["--set", "train.optimizer=adam", "--set", "train.lr=auto"],
        ["train.lr", "momentum"],
    ),
    "student argument": (["--student-arg", "depth"], ["Not an argument", "key=value"]),
    "student argument's value": (["--student-arg", "depth=["], ["not YAML", "depth=["]),
    "eps of another norm": (
        ["--set", "threat.norm=L2", "--set", "threat.eps=auto"],
        ["no customary eps for L2", "threat.eps"],
    ),
    "output below a file": (["--output", "/dev/null/run", "--skip-teacher-check"], ["/dev/null", "a file"]),
    "a deep output": (["--output", "a/" * 1000 + "run"], ["too deep", "255 folders"]),
    "an output that nobody can make": (["--output", "/proc/no/run", "--skip-teacher-check"], ["/proc/no"]),
    "batch size": (["--set", "train.global_batch_size=65"], ["65"]),
    "accumulation": (["--set", "train.accumulation=17"], ["17 accumulation steps"]),
    "a name without weights": (["--teacher", "test_vit4"], ["test_vit4"]),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_message(
    case: str, cli: Cli, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    wrong, words = CASES[case]
    ended = cli("run", *tiny.recipe_options(tiny_teacher, tiny_data), "--quiet", "--output", "out", *wrong)
    _is_one_message(ended.code, ended.err, words)
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def _is_one_message(code: int, err: str, words: list[str]) -> None:
    assert code == 2, err
    assert err.count("error: ") == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_run_that_is_not_there_is_not_evaluated(cli: Cli) -> None:
    ended = cli("evaluate", "runs/nothing")
    _is_one_message(ended.code, ended.err, ["Unknown model", "runs/nothing", "no file or folder"])
    assert "eacher" not in ended.err.partition("allowed:")[0]
    assert "did you mean" not in ended.err  # a network whose name looks like the path


def test_all_problems_of_a_recipe_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("student: {nam: a}\ntrain: {lr: -1, epochs: no}\nseeed: 1\n")
    ended = cli("run", "--recipe", "bad.yaml")
    paths = ["student.name: is required", "student.nam: unknown key", "train.lr", "train.epochs", "seeed"]
    _is_one_message(ended.code, ended.err, ["5 problems", *paths])


def test_a_teacher_with_other_classes(cli: Cli, tiny_teacher: Path, tmp_path: Path) -> None:
    ended = cli("run", "--teacher", str(tiny_teacher), "--dataset", "fashion-mnist-mini", "--quiet")
    _is_one_message(ended.code, ended.err, ["classes", "4", "10"])
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_with_other_channels(
    cli: Cli, tiny_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    teacher = tmp_path_factory.mktemp("four") / "teacher"
    tiny_folder(teacher, channels=4)
    ended = cli("run", "--teacher", str(teacher), "--dataset", str(tiny_data), "--quiet")
    _is_one_message(ended.code, ended.err, ["channels", "1", "4"])
    assert list(tmp_path.iterdir()) == []


def test_a_grey_teacher_sees_colour_data_through_its_own_view(tiny_teacher: Path, tmp_path: Path) -> None:
    data = write_class_folders(tmp_path / "data", ("a", "b", "c", "d"), count=10, size=(32, 32))
    options = tiny.recipe_options(tiny_teacher, data, epochs=1)
    settings = ["--skip-teacher-check", "--no-control", "--json", "--set", "data.augmentation={}"]
    ended = command("run", *options, *settings, "--output", "run", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert "RGB to grey" in ended.err


def test_a_teacher_at_chance(
    cli: Cli, tiny_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    teacher = tmp_path_factory.mktemp("ignorant") / "teacher"
    tiny.write_teacher(teacher, steps=0)
    ended = cli("run", *tiny.recipe_options(teacher, tiny_data), "--quiet", "--output", "out")
    _is_one_message(ended.code, ended.err, ["at chance", "--skip-teacher-check"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "other folder"])
def test_an_output_that_is_taken(kind: str, cli: Cli, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    if kind == "file":
        taken.touch()
    else:
        taken.mkdir()
        (taken / "thesis.tex").touch()
    ended = cli("run", "--output", "taken", "--overwrite")
    _is_one_message(ended.code, ended.err, ["taken"])


DISK = 24 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, where one may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_with_more_space(
    small_disk: Path, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    settings = ("--skip-teacher-check", "--resume", "--quiet")
    options = [*tiny.recipe_options(tiny_teacher, tiny_data, epochs=1), *settings]
    arguments = ["run", *options, "--output", str(run)]
    alone = command(*arguments, "--output", "alone", folder=tmp_path)
    assert alone.code == 0, alone.err
    state = sum(path.stat().st_size for path in (tmp_path / "alone/checkpoints/control-final").iterdir())
    ballast = small_disk / "ballast"
    # Room for two checkpoints and half a third.
    ballast.write_bytes(b"x" * (DISK - 5 * state // 2))
    ended = command(*arguments, folder=tmp_path)
    _is_one_message(ended.code, ended.err, ["no space is left"])
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["control-00000001", "control-00000002"]
    ballast.unlink()
    ended = command(*arguments, folder=tmp_path)
    assert ended.code == 0, ended.err
    weights = [sha256_of(folder / "student/model.safetensors") for folder in (run, tmp_path / "alone")]
    assert weights[0] == weights[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(
    cli: Cli, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    options = tiny.recipe_options(tiny_teacher, tiny_data)
    ended = cli("run", *options, "--skip-teacher-check", "--quiet", "--output", "locked/run")
    _is_one_message(ended.code, ended.err, ["permission denied"])


@pytest.mark.parametrize("options", [["--objective", "rrm"], ["--recipe", "quickstart"]])
def test_a_teacher_is_not_taught_by_another(options: list[str], cli: Cli, tmp_path: Path) -> None:
    ended = cli("teach", "--student", "test_resnet", "--dataset", "fashion-mnist-mini", "--quiet", *options)
    _is_one_message(ended.code, ended.err, ["made from scratch", "rrm", "pgd-at"])
    assert list(tmp_path.iterdir()) == []
