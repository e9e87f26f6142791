"""Every recipe takes its steps, with its data and its teacher's weights replaced by small stand-ins."""

from __future__ import annotations

import io
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
from _pytest.mark.structures import ParameterSet
from PIL import Image
from safetensors.torch import save_file

from rrm_transfer import Recipe, teach, transfer
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import AUTO, ObjectiveSection, TeacherSection
from rrm_transfer.recipe.shelf import find_recipe, recipe_names
from rrm_transfer.runs.finished import FinishedRun
from rrm_transfer.teachers.zoo import zoo_entry
from tests.support import tiny

BATCH, STEPS, TEST = 2, 2, 2
LARGE = {"resnet50", "vgg16", "convnext_tiny", "vit_small_patch16_224", "alexnet_2048"}
"""Students whose two steps take longer than the default tests can spare; one of them runs all the same."""
MADE = re.compile(r"runs/(?P<recipe>.+-teacher-.+)")


@pytest.fixture(autouse=True)
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every class needs an image, but not every image is trained on."""
    tiny.limit_steps(monkeypatch, STEPS)


def write_images(folder: Path, *, classes: int, grey: bool) -> Path:
    """Writes a parquet data set of noise, with one training image of each class."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=[f"class {i}" for i in range(classes)]),
        }
    )
    draw = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", classes), ("test", classes)):
        images = []
        for _ in range(count):
            pixels = draw.integers(0, 256, (28, 28) if grey else (40, 40, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, format="PNG")
            images.append({"bytes": stream.getvalue(), "path": None})
        table = datasets.Dataset.from_dict({"image": images, "label": list(range(count))}, features=features)
        table.to_parquet(folder / f"{part}.parquet")
    return folder


def write_extra(path: Path) -> Path:
    np.savez(path, image=np.zeros((BATCH, 32, 32, 3), dtype=np.uint8))
    return path


def shrink(recipe: Recipe, folder: Path) -> Recipe:
    """Returns the recipe with nothing changed but data, weights and the amount of work."""
    fashion = recipe.data.name in (AUTO, "fashion-mnist-mini")
    imagenet = recipe.data.name == "ILSVRC/imagenet-1k"
    images = write_images(folder / "images", classes=1000 if imagenet else 10, grey=fashion)
    train, rdt = recipe.train, ObjectiveSection.model_validate({"name": "rdt", "steps": 2})
    milestones = train.milestones if train.milestones == AUTO else [1]
    extra = recipe.data.extra and (str(write_extra(folder / "extra.npz")),)
    return recipe.changed(
        output=folder / "run",
        teacher=None if recipe.teacher is None else stand_in(recipe.teacher, folder),
        student=recipe.student.changed(start="scratch"),
        data=recipe.data.changed(name=str(images), held_out=0.0, workers=0, extra=extra),
        objective=rdt if recipe.objective.name == "rdt" else recipe.objective,
        train=train.changed(
            epochs=1, global_batch_size=BATCH, precision="float32", warmup_epochs=0, eps_warmup_epochs=0,
            milestones=milestones,
        ),
        control=recipe.control.changed(enabled=False),
        evaluate=recipe.evaluate.changed(images=TEST, steps=1, batch_size=TEST),
    )  # fmt: skip


def stand_in(teacher: TeacherSection, folder: Path) -> TeacherSection:
    """Gives the recipe its teacher with other weights: random ones, or of its own recipe's two steps."""
    teacher = teacher.changed(check=False)
    made = MADE.fullmatch(teacher.name)
    if made is not None:
        family = find_recipe(made["recipe"].replace("-teacher-", "/teacher-"))
        (folder / "teacher").mkdir()
        return teacher.changed(name=str(teach(shrink(read_recipe(str(family)), folder / "teacher")).folder))
    entry = zoo_entry(teacher.name)
    assert entry is not None
    if entry.source == "embedded":
        return teacher
    assert entry.architecture is not None
    weights = folder / "weights.safetensors"
    save_file(timm.create_model(entry.architecture).state_dict(), weights)
    return teacher.changed(weights=weights)


def run(name: str, folder: Path) -> FinishedRun:
    recipe = shrink(read_recipe(name), folder)
    return teach(recipe) if recipe.teacher is None else transfer(recipe)


def _cases() -> list[ParameterSet]:
    def is_slow(name: str) -> bool:
        return read_recipe(name).student.name in LARGE and name != "cifar10-linf/rrm-resnet18"

    return [pytest.param(name, marks=pytest.mark.slow if is_slow(name) else ()) for name in recipe_names()]


@pytest.mark.parametrize("name", _cases())
def test_a_recipe_takes_its_steps(name: str, tmp_path: Path) -> None:
    result = run(name, tmp_path)
    replays = result.recipe.objective.arguments.get("replays", 1)
    assert result.metrics.timing["student"]["steps"] == STEPS * replays
    given = read_recipe(name).objective
    assert result.recipe.objective.name == given.name
    assert given.arguments.items() <= result.recipe.objective.arguments.items()
    assert result.metrics.of("student")
    assert (result.folder / "student" / "config.json").is_file()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipes_comment_says_what_it_reproduces_and_how(name: str) -> None:
    lines = find_recipe(name).read_text(encoding="utf-8").splitlines()
    comment = "\n".join(line for line in lines if line.startswith("#"))
    # the commands, what is published, what we measured
    assert re.search(rf"rrm-transfer (run|teach)\b|rrm_transfer run --recipe {name}", comment)
    assert "Published figures" in comment
    assert re.search(r"Ours: |our figures: ", comment, re.IGNORECASE)
    assert "Hardware and time" in comment
