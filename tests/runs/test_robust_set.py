"""The data step of `rdt`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.evaluation.metrics import read_metrics
from rrm_transfer.objectives.base import Inversion
from rrm_transfer.runs import robust_set
from rrm_transfer.runs.robust_set import MadeImages, RobustSet
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.loading import load_teacher
from tests.support import tiny
from tests.support.command import Moment, command

INVERSION = Inversion(steps=6, step_size=0.5, folder=None)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust_set, "SHARD", 24)


class World:
    """The set of the tiny data and teacher."""

    def __init__(self, teacher: Path, data: Path) -> None:
        self.teacher = load_teacher(str(teacher), channels=1, image_size=32)
        self.data = load_dataset_by_name(str(data))

    def set_in(self, folder: Path, **changes: Any) -> RobustSet:
        settings: dict[str, Any] = {
            "inversion": INVERSION,
            "teacher": self.teacher,
            "data": self.data,
            "fit": Fit("pad", 32),
            "seed": 3,
        }
        return RobustSet(folder, **{**settings, **changes})

    def make(self, folder: Path, **changes: Any) -> MadeImages:
        return self.set_in(folder, **changes).make(Context.begin())

    def pixels(self, positions: Tensor) -> Tensor:
        train = self.data.train
        assert isinstance(train, MemoryImages)
        return Fit("pad", 32).apply(train.pixels[positions]).float() / 255


@pytest.fixture(scope="module")
def world(tiny_teacher: Path, tiny_data: Path) -> World:
    return World(tiny_teacher, tiny_data)


def _hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir())}


def test_images_descend_to_the_representation_by_the_published_steps(world: World, tmp_path: Path) -> None:
    images, seconds = world.make(tmp_path / "set")
    assert isinstance(images, MemoryImages)
    assert seconds > 0
    train = world.data.train
    assert torch.equal(images.labels, train.labels)
    assert images.pixels.shape == (tiny.TRAIN, 1, 32, 32)
    assert sorted(file.name for file in (tmp_path / "set").iterdir()) == [
        "robust-set.json",
        *(f"train-0000{n}-of-00003.parquet" for n in range(3)),
    ]

    starts = Randomness(3, 0, train.index).integers("robust set", len(train))
    x, z = world.pixels(torch.arange(len(train))), world.pixels(starts)
    target = world.teacher.features(x)
    begun = (world.teacher.features(z) - target).norm(dim=1)
    nearest, best = begun.detach(), z
    for step in range(INVERSION.steps + 1):
        z.requires_grad_()
        distance = (world.teacher.features(z) - target).square().sum(1).sqrt()
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest).detach()
        best = torch.where(nearer.view(-1, 1, 1, 1), z, best).detach()
        if step == INVERSION.steps:
            break
        # An image that is its own start is there already.
        (gradient,) = torch.autograd.grad(distance[starts != train.index].sum(), z)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        z = (z.detach() - 0.5 * gradient / length).clamp(0, 1)
    moved = starts != train.index
    gap = (images.pixels / 255 - best).abs()[moved]
    assert float(gap.max()) < 2 / 255  # where another rounding takes another side of a rectifier
    assert float((gap > 0.51 / 255).float().mean()) < 1e-3
    ended = (world.teacher.features(images.pixels / 255) - target).norm(dim=1)
    assert ended[moved].mean() < 0.7 * begun[moved].mean()


def test_facts_tell_what_the_images_depend_on(world: World, tmp_path: Path) -> None:
    world.make(tmp_path)
    facts = json.loads((tmp_path / "robust-set.json").read_text(encoding="utf-8"))
    assert facts["teacher"]["sha256"] == world.teacher.provenance["sha256"]
    assert facts["data"] == world.data.train.fingerprint
    assert (facts["steps"], facts["step_size"], facts["seed"], facts["images"]) == (6, 0.5, 3, tiny.TRAIN)
    assert "||g_T(z) - g_T(x)||" in facts["equation"]
    names = pq.read_schema(tmp_path / "train-00000-of-00003.parquet").names
    assert names == ["image", "label"]


def test_missing_files_are_made_again_and_whole_ones_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, seconds = world.make(tmp_path)
    before = _hashes(tmp_path)
    lost = "train-00001-of-00003.parquet"
    pixels = np.array(pq.read_table(tmp_path / lost).column("image").to_pylist())
    kept = {
        name: (tmp_path / name).stat().st_mtime_ns
        for name in before
        if name.endswith("parquet") and name != lost
    }
    (tmp_path / lost).unlink()
    world.make(tmp_path, batch_size=7)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert np.array_equal(pixels, np.array(pq.read_table(tmp_path / lost).column("image").to_pylist()))
    monkeypatch.setattr(RobustSet, "_invert", None)  # nothing is left to do
    _, again = world.make(tmp_path)
    assert 0 < again < 10 * seconds + 10


def test_the_folder_of_another_set_is_refused(world: World, tmp_path: Path) -> None:
    world.make(tmp_path / "set")
    with pytest.raises(UserError, match="made otherwise") as caught:
        world.set_in(tmp_path / "set", seed=4, inversion=replace(INVERSION, steps=7)).check()
    assert "\n  seed: was 3, is now 4\n  steps: was 6, is now 7\n" in str(caught.value)
    (tmp_path / "other").mkdir()
    world.set_in(tmp_path / "other").check()
    (tmp_path / "other" / "photo.png").touch()
    with pytest.raises(UserError, match="holds no robust set"):
        world.set_in(tmp_path / "other").check()


def test_a_run_trains_on_the_set_and_counts_its_cost(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = [
        *("run", *tiny.recipe_options(tiny_teacher, tiny_data, epochs=1), "--objective", "rdt"),
        *("--set", "objective.steps=2", "--no-control", "--skip-teacher-check", "--quiet", "--json"),
    ]
    killed = command(
        *options,
        "--output",
        "run",
        folder=tmp_path,
        moment=Moment("rrm_transfer.runs.robust_set:RobustSet.make"),
    )
    assert killed.code == -9
    files = _hashes(tmp_path / "run" / "robust-set")
    ended = command(*options, "--output", "run", "--resume", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert _hashes(tmp_path / "run" / "robust-set") == files
    timing = read_metrics(tmp_path / "run" / "metrics.json").timing["student"]
    assert 0 < timing["data_seconds"] < timing["train_seconds"]

    elsewhere = [*options, "--set", "objective.folder=run/robust-set"]
    shared = command(*elsewhere, "--output", "shared", folder=tmp_path)
    assert shared.code == 0, shared.err
    assert not (tmp_path / "shared" / "robust-set").exists()
    weights = [sha256_of(tmp_path / name / "student" / "model.safetensors") for name in ("run", "shared")]
    assert weights[0] == weights[1]
    refused = command(*elsewhere, "--set", "objective.steps=3", "--output", "refused", folder=tmp_path)
    assert refused.code == 2
    assert "made otherwise" in refused.err
    assert not (tmp_path / "refused").exists()


def test_it_is_no_way_to_teach(tiny_data: Path, tmp_path: Path) -> None:
    options = ["--student", "test_resnet", "--dataset", str(tiny_data), "--objective", "rdt"]
    refused = command("teach", *options, folder=tmp_path)
    assert refused.code == 2
    assert "learns from another" in refused.err


def test_files_that_only_other_processes_see_are_missed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RobustSet, "_write", lambda *_: None)
    monkeypatch.setattr("rrm_transfer.runtime.processes._VISIBLE_SECONDS", 0.2)
    with pytest.raises(UserError, match="does not see the files") as caught:
        world.make(tmp_path)
    assert "all machines" in str(caught.value.hint)
