from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.recipe.schema import StudentSection
from rrm_transfer.runs.trainables import (
    TeacherNetworkPlan,
    export_trained,
    kind_of_trainable,
    plan_trainable,
    resolve_trainable_name,
)
from rrm_transfer.teachers.loading import load_teacher


def test_a_teachers_network_is_trained_exported_and_loaded_as_a_teacher(tmp_path: Path) -> None:
    network = TeacherNetworkPlan("wrn_10_1_trades", num_classes=3, channels=1, image_size=32, seed=0).build()
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    network(images).logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    folder = tmp_path / "student"
    export_trained(network, folder, sample=images, class_names=["a", "b", "c"], license=None, rrm={})
    teacher = load_teacher(str(folder), channels=1, image_size=32)
    with torch.no_grad():
        assert torch.equal(teacher.logits(images), network.eval()(images).logits)
    assert teacher.class_names == ("a", "b", "c")
    with pytest.raises(RuntimeError):  # stock timm must not take it for one of its own
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_equal_seeds_build_equal_networks_and_leave_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    plan = TeacherNetworkPlan("cifar_vgg11", num_classes=2, channels=3, image_size=32, seed=7)
    first, second = plan.build(), plan.build()
    assert torch.equal(torch.random.get_rng_state(), state)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_names_are_resolved_among_timms_and_the_teachers_networks() -> None:
    assert resolve_trainable_name("preact_resnet18") == "preact_resnet18"
    assert resolve_trainable_name("vit_small") == "vit_small_patch16_224"
    assert kind_of_trainable("preact_resnet18") == "convolutional"


@pytest.mark.parametrize(
    ("name", "further", "message"),
    [
        ("alexnet", {"args": {"depth": 3}}, "no arguments"),
        ("cifar_vgg11", {"weights": "absent.pt"}, "trained from scratch"),
        ("cifar_vgg11", {"projection": "always"}, "trained from scratch"),
    ],
)
def test_a_network_that_timm_lacks_is_what_it_is(name: str, further: dict[str, Any], message: str) -> None:
    section = StudentSection(name=name, **further)
    data = load_dataset_by_name("fashion-mnist-mini")
    with pytest.raises(UserError, match=message):
        plan_trainable(section, data, image_size=32, pretrained=False, seed=0)


def test_an_outline_has_the_shapes_of_what_is_built() -> None:
    data = load_dataset_by_name("fashion-mnist-mini")
    for name, width in (("cifar_vgg11", None), ("test_vit", 7)):
        plan = plan_trainable(
            StudentSection(name=name),
            data,
            image_size=32,
            pretrained=False,
            weights=None,
            projected=False,
            seed=0,
        )
        outline, built = plan.outline(width), plan.build(width)
        assert {n: v.shape for n, v in outline.state_dict().items()} == {
            n: v.shape for n, v in built.state_dict().items()
        }
        assert all(value.is_meta for value in outline.state_dict().values())
