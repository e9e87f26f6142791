from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.runs.setup import assemble
from rrm_transfer.runs.learners import (
    build_teacher_network,
    export_learner,
    kind_of_learner,
    resolve_learner_name,
)
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.teachers.loading import load_teacher
from tests.support import tiny


def test_a_teachers_network_is_trained_exported_and_loaded_as_a_teacher(tmp_path: Path) -> None:
    learner = build_teacher_network(
        "wrn_10_1_trades", num_classes=3, channels=1, image_size=32, args={}, seed=0
    )
    assert learner is not None
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    learner(images).logits.sum().backward()
    assert all(p.grad is not None for p in learner.parameters())
    folder = tmp_path / "student"
    export_learner(learner, folder, sample=images, class_names=["a", "b", "c"], licence=None, rrm={})
    teacher = load_teacher(str(folder), channels=1, image_size=32)
    with torch.no_grad():
        assert torch.equal(teacher.logits(images), learner.eval()(images).logits)
    assert teacher.class_names == ("a", "b", "c")
    with pytest.raises(RuntimeError):  # stock timm must not take it for one of its own
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_equal_seeds_build_equal_networks_and_leave_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (
        build_teacher_network("cifar_vgg11", num_classes=2, channels=3, image_size=32, args={}, seed=7)
        for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert torch.equal(torch.random.get_rng_state(), state)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_names_are_resolved_among_timms_and_the_teachers_networks() -> None:
    assert resolve_learner_name("preact_resnet18") == "preact_resnet18"
    assert resolve_learner_name("vit_small") == "vit_small_patch16_224"
    assert kind_of_learner("preact_resnet18") == "convolutional"
    assert (
        build_teacher_network("resnet18", num_classes=2, channels=3, image_size=32, args={}, seed=0) is None
    )
    with pytest.raises(UserError, match="no arguments"):
        build_teacher_network("alexnet", num_classes=2, channels=3, image_size=64, args={"depth": 3}, seed=0)


def test_a_network_that_timm_lacks_takes_no_weights(tiny_data: Path) -> None:
    recipe = build_recipe(
        {"student": {"name": "cifar_vgg11", "weights": "absent.pt"}, "data": {"name": str(tiny_data)}},
        ["objective.name=natural", *tiny.settings()],
    )
    with pytest.raises(UserError, match="trained from scratch"):
        assemble(recipe, Runtime(), Narrator())
