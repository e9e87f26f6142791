"""What is chosen for small images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.students import build_student, describe_student
from rrm_transfer.students.sizes import InputPlan, plan_input


def plan(name: str, image_size: int, *, keep_shapes: bool = False, **args: object) -> InputPlan:
    return plan_input(
        name, num_classes=5, channels=3, image_size=image_size, args=args, keep_shapes=keep_shapes
    )


@pytest.mark.parametrize(
    ("name", "image_size", "args", "positions"),
    [
        ("test_resnet", 32, {"output_stride": 8}, 16),
        ("test_resnet", 28, {"output_stride": 8}, 16),
        ("test_resnet", 64, {"output_stride": 16}, 16),
        ("test_resnet", 160, {}, 25),
        ("test_vit", 28, {"img_size": 28, "patch_size": 4}, 49),
        ("test_vit", 32, {"img_size": 32, "patch_size": 4}, 64),
        ("test_vit", 64, {"img_size": 64, "patch_size": 8}, 64),
        ("test_vit", 160, {}, 100),
        ("vit_small_patch16_224", 224, {}, 196),
        ("vit_base_patch32_224", 224, {}, 49),
        ("swin_tiny_patch4_window7_224", 32, {"img_size": 32, "patch_size": 1}, 16),
    ],
)
def test_arguments_are_chosen_for_the_image_size(
    name: str, image_size: int, args: dict[str, object], positions: int
) -> None:
    chosen = plan(name, image_size)
    assert chosen.args == args
    assert chosen.positions == positions
    assert all(any(f"{key}={value}" in note for note in chosen.notes) for key, value in args.items())


def test_the_users_arguments_win_and_a_collapsed_map_names_the_way_out() -> None:
    collapsed = plan("test_resnet", 32, output_stride=32)
    assert collapsed.args == {"output_stride": 32}
    assert collapsed.positions == 1
    (warning,) = (note for note in collapsed.notes if note.startswith("warning"))
    assert "output_stride" in warning
    assert plan("test_vit", 32, patch_size=8).args == {"img_size": 32, "patch_size": 8}


def test_weights_that_are_loaded_keep_the_patches_of_a_network_with_stages() -> None:
    assert plan("swin_tiny_patch4_window7_224", 32, keep_shapes=True).args == {"img_size": 32}
    assert plan("test_vit", 32, keep_shapes=True).args == {"img_size": 32, "patch_size": 4}


def test_a_cifar_stem_needs_no_other_change() -> None:
    student = build_student("resnet18", num_classes=5, channels=1, image_size=32, args={"stem": "cifar"})
    stem = student.model.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.in_channels, stem.kernel_size, stem.stride) == (1, (3, 3), (1, 1))
    assert student.model_args == {}
    assert not student.stock
    assert student(torch.rand(2, 1, 32, 32)).logits.shape == (2, 5)


def test_an_impossible_size_is_refused_with_the_architectures_own() -> None:
    with pytest.raises(UserError, match="cannot take 32 px") as caught:
        plan("inception_v3", 32)
    assert "299" in str(caught.value)
    with pytest.raises(UserError, match="requires"):
        plan("crossvit_tiny_240", 32)


def test_a_description_says_what_a_student_would_be() -> None:
    told = describe_student("vit_small", image_size=32, feature_width=512)
    assert told.name == "vit_small_patch16_224"
    assert told.width == 384
    assert told.classifier == "linear"
    assert told.folds_into == ("head",)
    assert "384 → 512" in told.projection
    assert told.kind == "transformer"
    assert told.model_args == {"img_size": 32, "patch_size": 4}
    own = describe_student("test_resnet")
    assert own.image_size == 160
    assert own.stock
    assert not describe_student("resnet18", image_size=32, args={"stem": "cifar"}).stock


def test_the_warning_names_only_what_would_help() -> None:
    def warning(name: str, *, keep_shapes: bool = False) -> str:
        return next(n for n in plan(name, 32, keep_shapes=keep_shapes).notes if n.startswith("warning"))

    assert "larger images" in warning("test_mambaout")
    assert "smaller patch_size" in warning("swin_tiny_patch4_window7_224", keep_shapes=True)
