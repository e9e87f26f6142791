"""Every command and snippet of README and docs runs, or says why it does not.

The pages are followed in a folder that holds what they speak of: ``photos``, a robust checkpoint, a finished
run. Commands are run as they stand, on two steps of training, a handful of images and two steps of an attack.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch

from rrm_transfer.attacks.ascent import InnerAttack
from rrm_transfer.attacks.pgd import pgd
from rrm_transfer.cli.app import main
from rrm_transfer.data.images import DataSet, ImageSet
from rrm_transfer.data.sources import load_dataset_by_name
from tests.data.fixtures import encode
from tests.documentation.pages import PAGES, blocks, title, unnamed
from tests.support import tiny

CLASSES = ("daisy", "rose", "sunflower", "tulip")
LITTLE = {
    "train.epochs": "1",
    "train.global_batch_size": "4",
    "train.precision": "float32",
    "train.channels_last": "false",
    "train.warmup_epochs": "0",
    "evaluate.images": "8",
    "evaluate.steps": "1",
}
TRAINS = ("run", "teach", "sweep", "bench")
EVALUATED = 8
TRAINED = 256
ATTACK_STEPS = 2
LONG = ("docs/start/your-clean-network.md",)
"""Pages with many trainings."""


def write_photos(folder: Path, *, each: int = 6) -> None:
    """Writes colour images of four classes, named as a user's folder is."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for number, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for image in range(each):
                pixels = draw.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[8 * number : 8 * number + 8] += 120
                (folder / part / name / f"{image}.png").write_bytes(encode(pixels))


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.limit_steps(monkeypatch, 2)
    monkeypatch.setattr("rrm_transfer.runs.setup.SOLVED", 16)

    balanced, load = ImageSet.balanced, load_dataset_by_name
    perturb = InnerAttack.perturb

    def few(images: ImageSet, count: int | None, *, skip: int = 0) -> ImageSet:
        return balanced(images, min(count or EVALUATED, EVALUATED), skip=skip)

    def small(name: str, **settings: Any) -> DataSet:
        return load(name, **{**settings, "train_limit": settings.get("train_limit") or TRAINED})

    def short(*args: Any, steps: int, restarts: int = 1, **settings: Any) -> torch.Tensor:
        return pgd(*args, steps=min(steps, ATTACK_STEPS), restarts=min(restarts, 2), **settings)

    def short_inner(inner: InnerAttack, *args: Any) -> torch.Tensor:
        return perturb(replace(inner, steps=min(inner.steps, ATTACK_STEPS)), *args)

    monkeypatch.setattr(ImageSet, "balanced", few)
    monkeypatch.setattr("rrm_transfer.runs.models.load_dataset_by_name", small)
    monkeypatch.setattr("rrm_transfer.attacks.catalogue.pgd", short)
    monkeypatch.setattr(InnerAttack, "perturb", short_inner)


def call(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command line in this process, with little to do."""
    name = words[1] if len(words) > 1 else ""
    if name in TRAINS and "--help-objective" not in words:
        words = [*words, *(part for key, value in LITTLE.items() for part in ("--set", f"{key}={value}"))]
    if name == "run" and "--help-objective" not in words:
        words = [*words, "--skip-teacher-check"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), words


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name."""
    world = tmp_path_factory.mktemp("world")
    write_photos(world / "photos")
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=len(CLASSES))
    torch.save({"state_dict": network.state_dict()}, world / "my_robust.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        little_work.__wrapped__(patch)  # type: ignore[attr-defined]
        photos = ["--dataset", "photos", "--set", "data.image_size=32"]
        call(["rrm-transfer", "run", "--output", "runs/my-run", "--set", "train.epochs=1"], patch)
        call(
            ["rrm-transfer", "teach", "--student", "resnet18", *photos, "--output", "runs/photos-teacher"],
            patch,
        )
    for checkpoints in world.glob("runs/*/checkpoints"):
        shutil.rmtree(checkpoints)
    for name in ("runs/a", "runs/b", "sweeps/grid/a"):
        shutil.copytree(world / "runs" / "my-run", world / name)
    return world


@pytest.fixture
def world(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "world"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_block_names_its_language(page: Path) -> None:
    assert unnamed(page) == []


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if title(page) in LONG else ()) for page in PAGES],
    ids=title,
)
def test_a_page_does_what_it_says(page: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(page, "bash", "python"):
        if block.reason is not None:
            continue
        if block.language == "python":
            module = ModuleType("snippet")  # a class looks its module up
            monkeypatch.setitem(sys.modules, "snippet", module)
            exec(compile(block.text, title(page), "exec"), vars(module))
            continue
        for words in block.commands:
            assert words[0] == "rrm-transfer", f"{title(page)}: say why `{' '.join(words)}` is not run"
            call(words, monkeypatch)
