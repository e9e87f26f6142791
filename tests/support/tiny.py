"""A data set, a teacher and a recipe so small that a whole run takes a second or two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.recipe.defaults import fill_in, numerics, training_defaults
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.resolved import ResolvedRecipe
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import Student, build_student
from rrm_transfer.training.passes import Passes
from tests.data.fixtures import Pixels, idx_bytes

CLASSES = 4
TRAIN, TEST = 64, 32
PASSES = Passes(2, 1.3338).to_json()
"""Of two epochs of ``rrm``, with ``write_teacher``'s teacher and `test_resnet` as the student."""


def quarters(count: int, seed: int) -> tuple[Pixels, Pixels]:
    """Returns images ``(N, 28, 28)`` whose class is the quarter that is bright, and their classes."""
    labels = np.arange(count) % CLASSES
    images = np.random.default_rng(seed).integers(0, 60, (count, 28, 28))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[14 * row : 14 * (row + 1), 14 * column : 14 * (column + 1)] += 180
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_data(folder: Path) -> Path:
    """Writes the data set as an idx folder."""
    folder.mkdir(parents=True)
    for part, count, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        images, labels = quarters(count, seed)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def trained(name: str = "test_resnet", *, steps: int = 25) -> Student:
    """Trains a network on the data set, with noise as large as the attacks of the tests."""
    student = build_student(name, num_classes=CLASSES, channels=1, image_size=32)
    images, labels = quarters(TRAIN, 0)
    x, y = F.pad(torch.from_numpy(images)[:, None] / 255, (2,) * 4), torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        noise = 0.1 * torch.randn(x.shape, generator=generator)
        loss = F.cross_entropy(student((x + noise).clamp(0, 1)).logits, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return student


def write_teacher(folder: Path, *, steps: int = 25) -> Path:
    """Writes a trained network as a stock timm folder."""
    images, _ = quarters(8, 2)
    sample = F.pad(torch.from_numpy(images)[:, None] / 255, (2,) * 4)
    save_student(trained(steps=steps), folder, sample=sample, class_names=None, license=None, rrm={})
    return folder


def settings(*, epochs: int = 2) -> list[str]:
    """Returns recipe overrides: 4 steps an epoch, a short control, little evaluation."""
    values = {
        "train.epochs": epochs,
        "train.global_batch_size": 16,
        "train.lr": 0.02,
        "train.warmup_epochs": 0,
        "train.precision": "float32",
        "train.ema": "null",
        "train.channels_last": "false",
        "train.checkpoint_minutes": 0,
        "train.log_every": 2,
        "control.epochs": 1,
        "data.image_size": 32,
        "data.augmentation": "{crop_padding: 2}",
        "threat.eps": "8/255",
        "evaluate.steps": 2,
        "evaluate.images": 16,
        "evaluate.batch_size": 8,
    }
    return [f"{key}={value}" for key, value in values.items()]


def limit_steps(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Lets an epoch take that many steps, however many images there are."""
    few = property(lambda loader: steps, lambda loader, counted: None)
    monkeypatch.setattr(TrainingLoader, "steps_per_epoch", few, raising=False)


def recipe_options(teacher: Path, data: Path, *, student: str = "test_resnet", epochs: int = 2) -> list[str]:
    """Returns options of ``rrm-transfer run``; see ``settings``."""
    sets = [part for setting in settings(epochs=epochs) for part in ("--set", setting)]
    return ["--teacher", str(teacher), "--dataset", str(data), "--student", student, *sets]


def resolved(content: dict[str, Any], overrides: Iterable[str] = ()) -> ResolvedRecipe:
    """Returns a recipe with values for all that is open, as though it had met 32-px images on a CPU."""
    recipe = build_recipe(content, overrides)
    recipe = recipe.changed(
        teacher=recipe.teacher
        and recipe.teacher.changed(
            cache=recipe.teacher.cache and recipe.teacher.cache.changed(seed=recipe.seed)
        ),
        student=recipe.student.changed(start="scratch", head="own"),
        data=recipe.data.changed(name="data", label_map=None, image_size=32),
        threat=recipe.threat.changed(norm="Linf", eps=8 / 255),
        evaluate=recipe.evaluate.changed(eps=[8 / 255]),
    )
    row, numbers = training_defaults("convolutional", 32), numerics("convolutional", bf16=False)
    return ResolvedRecipe.of(fill_in(recipe, row, numbers))
