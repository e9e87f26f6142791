"""Runs that read the teacher's outputs from a cache: built once, shared, counted in the run's cost."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.runtime import processes
from rrm_transfer.training.features import building
from rrm_transfer.training.features import shards as feature_shards
from rrm_transfer.training.step import TrainingStep, infer
from tests.cli.conftest import Cli, cli
from tests.support import tiny
from tests.support.command import Command, Moment, command, free_port, together

__all__ = ["cli"]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))


def _options(teacher: Path, data: Path, output: str, *more: str) -> list[str]:
    short = ["--no-control", "--skip-teacher-check", "--output", output, "--set", "teacher.cache.views=2"]
    return ["run", *tiny.recipe_options(teacher, data), *short, *more]


def _shards(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in folder.glob("features/*/*.safetensors")}


def _events(run: Path, name: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == name]


def test_the_second_run_trains_without_the_teacher_and_both_tell_what_it_cost(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()
    teacher = TrainingStep.teacher

    def counted(step: TrainingStep, x: torch.Tensor) -> Any:
        asked["teacher"] += 1
        return teacher(step, x)

    monkeypatch.setattr(TrainingStep, "teacher", counted)
    timings = []
    for run, more in (("first", ()), ("second", ("--student", "test_vit", "--seed", "5"))):
        options = _options(tiny_teacher, tiny_data, run, "--set", "teacher.cache.seed=0", *more)
        ended = cli(*options)
        assert ended.code == 0, ended.err
        timing = json.loads((tmp_path / run / "metrics.json").read_text())["timing"]["student"]
        (event,) = _events(tmp_path / run, "teacher_features")
        facts = timing["teacher_features"]
        assert {**facts, "event": 0, "time": 0} == {**event, "event": 0, "time": 0}
        assert timing["train_seconds"] > facts["seconds"] > 0
        assert timing["images_per_s"] * timing["train_seconds"] == pytest.approx(2 * tiny.TRAIN)
        timings.append(facts)
    assert [facts["cache"] for facts in timings] == ["built", "hit"]
    assert [facts["shards_built"] for facts in timings] == [2, 0]
    assert timings[0]["build_seconds"] == timings[1]["build_seconds"]
    assert timings[0]["bytes"] == sum(
        t.nbytes for shard in _shards(tmp_path / "cache").values() for t in shard.values()
    )
    assert asked == Counter()
    recipe = (tmp_path / "second" / "recipe.yaml").read_text()
    assert "views: 2" in recipe
    assert str(tmp_path / "cache") not in recipe


def test_an_objective_that_has_no_use_for_it_does_without(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, cli: Cli
) -> None:
    ended = cli(*_options(tiny_teacher, tiny_data, "run", "--set", "objective.mixup=0.2"))
    assert ended.code == 0, ended.err
    assert "not cached, rrm with these arguments never asks" in ended.err
    assert read_recipe(str(tmp_path / "run" / "recipe.yaml")).teacher.cache is None  # type: ignore[union-attr]
    assert not (tmp_path / "cache" / "features").exists()


def test_a_run_stopped_while_it_builds_goes_on_and_counts_both_sessions(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_shards, "ROWS", 24)
    write, written = feature_shards.ShardSet.write, []

    def stop(self: Any, shard: Any, values: Any, **facts: Any) -> None:
        write(self, shard, values, **facts)
        written.append(shard.name)
        if len(written) == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(feature_shards.ShardSet, "write", stop)
    stopped = cli(*_options(tiny_teacher, tiny_data, "run"))
    assert stopped.code == 130, stopped.err
    resumed = cli(*_options(tiny_teacher, tiny_data, "run", "--resume"))
    assert resumed.code == 0, resumed.err
    assert len(written) == len(set(written)) == 6
    first, second = _events(tmp_path / "run", "teacher_features")
    assert ("cache" in first, second["shards_built"]) == (False, 2)
    timing = json.loads((tmp_path / "run" / "metrics.json").read_text())["timing"]["student"]
    assert timing["teacher_features"]["seconds"] == first["seconds"] + second["seconds"]


def test_two_processes_build_and_read_what_one_does(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """One step, on the whole set; the network has no batch statistics."""
    more = [
        "--student",
        "test_vit",
        "--set",
        "train.epochs=1",
        "--set",
        f"train.global_batch_size={tiny.TRAIN}",
    ]
    alone, shared = ({"RRM_TRANSFER_CACHE": str(tmp_path / name)} for name in ("alone", "shared"))
    ended = command(*_options(tiny_teacher, tiny_data, "one", *more), folder=tmp_path, environment=alone)
    assert ended.code == 0, ended.err
    options = _options(tiny_teacher, tiny_data, "two", *more)
    ends = [running.end() for running in together(options, folder=tmp_path, environment=shared)]
    assert [end.code for end in ends] == [0, 0], ends[0].err + ends[1].err
    one, two = _shards(tmp_path / "alone"), _shards(tmp_path / "shared")
    assert one.keys() == two.keys()
    assert len(one) == 2
    for name, tensors in one.items():
        assert torch.equal(tensors["features"], two[name]["features"])
    losses = [_events(tmp_path / run, "step")[0]["losses"] for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class _Hasty(Moment):
    """Waits for files of other machines a moment only."""

    def arrange(self) -> None:
        processes._VISIBLE_SECONDS = 0.3


def test_a_folder_that_is_not_shared_is_told_before_the_work(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = _options(tiny_teacher, tiny_data, "run")
    port = str(free_port())
    commands = [
        Command(
            options,
            folder=tmp_path,
            moment=_Hasty(""),
            environment={
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "RRM_TRANSFER_CACHE": str(tmp_path / f"cache-{rank}"),
            },
        )
        for rank in range(2)
    ]
    first, second = (running.end() for running in commands)
    assert (first.code, second.code) == (2, 2), first.err + second.err
    assert (first.err + second.err).count("does not see the files that another one wrote") == 1
    assert "RRM_TRANSFER_CACHE" in first.err + second.err
    assert not [*tmp_path.glob("cache-*/features/**/*.safetensors")]
    assert not [*tmp_path.glob("cache-*/features/**/.shared-*")]


def test_memory_that_runs_out_is_explained(
    tiny_teacher: Path, tiny_data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(module: Any, x: torch.Tensor, *rest: Any) -> Any:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return infer(module, x, *rest)

    monkeypatch.setattr(building, "infer", greedy)
    ended = cli(*_options(tiny_teacher, tiny_data, "run"))
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert "Memory ran out with 8 images in a forward pass outside training; 2 fit" in ended.err
    assert "--set evaluate.batch_size=2" in ended.err
