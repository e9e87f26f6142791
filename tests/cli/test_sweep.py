"""``rrm-transfer sweep``: the product of runs, failures that it survives, mistakes told first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.sweeps import launchers
from rrm_transfer.sweeps.launchers import Task
from tests.cli.conftest import Cli
from tests.runs.folders import write_run
from tests.support import tiny
from tests.support.command import command


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Has a sweep's commands run in processes that import nothing; returns the names of what was run."""
    names: list[str] = []

    def carry_out(task: Task, echo: Callable[[str], None] | None = None) -> int:
        names.append(task.name)
        assert task.command[1:4] == ("-m", "rrm_transfer", "run")
        ended = command(*task.command[3:], folder=tmp_path)
        task.log.parent.mkdir(exist_ok=True)
        task.log.write_text(ended.out + ended.err, encoding="utf-8")
        return ended.code

    monkeypatch.setattr(launchers, "carry_out", carry_out)
    return names


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has a sweep's commands write finished runs at once."""
    names: list[str] = []

    def carry_out(task: Task, echo: Callable[[str], None] | None = None) -> int:
        names.append(task.name)
        words = list(task.command)
        recipe = read_recipe(words[words.index("--recipe") + 1])
        folder = Path(words[words.index("--output") + 1])
        write_run(folder, recipe.objective.name, seed=recipe.seed, student=recipe.student.name)
        return 0

    monkeypatch.setattr(launchers, "carry_out", carry_out)
    return names


def settings(teacher: Path, data: Path) -> list[str]:
    words = tiny.recipe_options(teacher, data, epochs=1)
    sets = [part for word, part in pairwise(words) if word == "--set"]
    sets += [f"teacher.name={teacher}", f"data.name={data}", "teacher.check=false"]
    return [part for setting in sets for part in ("--set", setting)]


def test_a_sweep_survives_a_failure_goes_on_and_ends_in_a_comparison(
    cli: Cli, forked: list[str], tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [*settings(tiny_teacher, tiny_data), "--output", "grid", "--json"]
    # A batch of 64 from 64 images works, one of 65 fails once the data are there.
    items = ["--objectives", "rrm,kd:train.global_batch_size=65"]
    ended = cli("sweep", *options, *items, "--seeds", "0")
    assert ended.code == 1, ended.err
    document: dict[str, Any] = ended.document
    statuses = {run["name"]: run["status"] for run in document["runs"]}
    failed = "test_efficientnet-kd-train.global_batch_size=65-s0"
    assert statuses == {
        "test_efficientnet-natural-s0": "finished",
        "test_efficientnet-rrm-s0": "finished",
        failed: "failed",
    }
    assert f"failed: {failed}: " in ended.err
    assert "65" in next(run["error"] for run in document["runs"] if run["status"] == "failed")
    methods = {line["method"]: line for line in document["comparison"]["lines"]}
    rrm = next(line for name, line in methods.items() if name.startswith("rrm"))
    assert rrm["passes"]["mean"] > 1
    assert not (tmp_path / "grid" / "test_efficientnet-rrm-s0" / "checkpoints" / "control-final").exists()

    forked.clear()
    again = cli("sweep", *options, "--objectives", "rrm", "--seeds", "0,1")
    assert again.code == 0, again.err
    assert forked == ["test_efficientnet-natural-s1", "test_efficientnet-rrm-s1"]
    assert [run["status"] for run in again.document["runs"]] == ["skipped"] * 2 + ["finished"] * 2
    lines = again.document["comparison"]["lines"]
    counts = {line["method"].partition(":")[0]: len(line["runs"]) for line in lines}
    assert counts == {"teacher": 1, "natural": 2, "rrm": 2}


def test_the_product_in_order_with_plain_training_first(cli: Cli, pretended: list[str]) -> None:
    ended = cli("sweep", "--students", "test_resnet,test_vit", "--objectives", "rrm,pgd-at", "--seeds", "3,4")
    assert ended.code == 0, ended.err
    assert pretended == [
        f"{student}-{objective}-s{seed}"
        for seed in (3, 4)
        for student in ("test_resnet", "test_vit")
        for objective in ("natural", "rrm", "pgd-at")
    ]
    for words in ("natural", "test_vit", "2 seeds: 3, 4"):
        assert words in ended.out
    assert "run 1 of 12: test_resnet-natural-s3" in ended.err
    assert cli("sweep", "--students", "test_resnet", "--objectives", "rrm", "--seeds", "3", "-q").err == ""


def test_items_settings_and_the_recipes_own_arguments(cli: Cli, pretended: list[str], tmp_path: Path) -> None:
    ended = cli(
        "sweep", "--students", "test_efficientnet,test_vit:qkv_bias=false:train.lr=1e-3",
        "--objectives", "rrm,rrm:distance=cosine:train.epochs=3,kd", "--set", "train.epochs=2",
        "--set", "control.enabled=true",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    recipes = {
        path.stem: read_recipe(str(path)) for path in (tmp_path / "sweeps/quickstart/recipes").iterdir()
    }
    assert not any("natural" in name for name in recipes)
    assert all(recipe.control.enabled for recipe in recipes.values())
    own = recipes["test_efficientnet-rrm-s0"]
    assert own.objective.arguments == {"distance": "relative_l2", "ce_weight": 0.005}
    assert own.student.args == {"output_stride": 16}
    cosine = recipes["test_vit-qkv_bias=false-train.lr=1e-3-rrm-distance=cosine-train.epochs=3-s0"]
    assert cosine.objective.arguments == {"distance": "cosine", "ce_weight": 0.005}
    assert cosine.student.args == {"qkv_bias": False}
    assert (cosine.train.epochs, cosine.train.lr, own.train.epochs) == (3, 1e-3, 2)
    assert recipes["test_efficientnet-kd-s0"].objective.arguments == {}


def test_every_mistake_is_told_before_anything_starts(cli: Cli, pretended: list[str], tmp_path: Path) -> None:
    ended = cli(
        "sweep", "--students", "test_resnet,test_resnot,vitt_small", "--objectives", "rrm:nois=1,rmm",
        "--seeds", "0,x", "--set", "trian.lr=1", "--set", "teacher.name=fashion_mnist_lnf",
    )  # fmt: skip
    assert ended.code == 2
    for words in ("test_resnot", "vitt_small", "received: x", "objective.nois", "'rmm'", "trian"):
        assert words in ended.err
    settings = cli(
        "sweep", "--students", "test_resnet,test_resnot", "--objectives", "rrm:nois=1,rmm",
        "--set", "trian.lr=1",
    )  # fmt: skip
    for words in ("test_resnot", "objective.nois", "'rmm'", "trian"):
        assert words in settings.err
    assert settings.err.count("trian: unknown key") == 1
    unknown = cli("sweep", "--set", "teacher.name=fashion_mnist_lnf")
    assert (unknown.code, "Unknown model" in unknown.err) == (2, True)
    for wrong in (["--launcher-arg", "a=1"], ["--objectives", "rrm,rrm"], ["--objectives", "rrm:"]):
        assert cli("sweep", *wrong).code == 2
    assert pretended == []
    assert list(tmp_path.iterdir()) == []


def test_an_objective_without_its_teacher_is_told(cli: Cli, pretended: list[str]) -> None:
    ended = cli("sweep", "--recipe", "fashion-mnist-teacher", "--set", "data.name=x", "--objectives", "kd")
    assert ended.code == 2
    assert "needs a teacher" in ended.err


def test_a_folder_of_another_sweep_is_not_mixed_in(cli: Cli, pretended: list[str]) -> None:
    assert cli("sweep", "--objectives", "rrm").code == 0
    pretended.clear()
    ended = cli("sweep", "--objectives", "rrm", "--set", "train.epochs=2")
    assert ended.code == 2
    assert "another sweep" in ended.err
    assert re.search(r"train\.epochs: was \d+, is now 2\n", ended.err)
    assert pretended == []


def test_an_interruption_is_exit_code_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "carry_out", lambda *_: 130)
    ended = cli("sweep", "--objectives", "rrm")
    assert ended.code == 130
    assert "the same command continues the sweep" in ended.err


def test_allowed_code_is_allowed_in_every_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []

    def carry_out(task: Task, echo: Callable[[str], None] | None = None) -> int:
        commands.append(task.command)
        task.log.parent.mkdir(exist_ok=True)
        task.log.write_text("It is wrong.", encoding="utf-8")
        return 1

    monkeypatch.setattr(launchers, "carry_out", carry_out)
    cli("sweep", "--objectives", "rrm", "--output", "without")
    cli("sweep", "--objectives", "rrm", "--output", "with", "--allow-code")
    assert ["--allow-code" in command for command in commands] == [False, False, True, True]


def test_without_a_finished_run_there_is_no_table(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(task: Task, echo: object = None) -> int:
        task.log.parent.mkdir(exist_ok=True)
        task.log.write_text("error: It is wrong.\n", encoding="utf-8")
        return 2

    monkeypatch.setattr(launchers, "carry_out", fail)
    ended = cli("sweep", "--objectives", "rrm", "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["comparison"] is None
    assert ended.err.count("It is wrong.") == 4


def test_arguments_for_all_objectives_are_not_asked_of_plain_training(
    cli: Cli, pretended: list[str], tmp_path: Path
) -> None:
    ended = cli("sweep", "--objectives", "rrm", "--set", "objective.noise=1", "--output", "noise")
    assert ended.code == 0, ended.err
    assert pretended == ["test_efficientnet-natural-s0", "test_efficientnet-rrm-s0"]
    recipe = read_recipe(str(tmp_path / "noise" / "recipes" / "test_efficientnet-rrm-s0.yaml"))
    assert recipe.objective.arguments["noise"] == 1
    of_a_student = cli(
        "sweep", "--students", "test_resnet:objective.noise=1", "--objectives", "rrm", "--output", "other"
    )
    assert of_a_student.code == 0, of_a_student.err
    named = cli("sweep", "--objectives", "natural,rrm", "--set", "objective.noise=1")
    assert named.code == 2
    assert "natural has no argument 'noise'" in named.err
