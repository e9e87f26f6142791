from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.layers import Layer
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import PixelStatistics
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.networks import Blueprint, adapt, build_model
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View
from tests.teachers.fixtures import LABELS, pixels, tiny, tiny_folder

STATISTICS = PixelStatistics((0.5,), (0.25,))


def teacher_of(model: nn.Module, *, channels: int = 3, size: int = 32, view: View | None = None) -> Teacher:
    return Teacher(
        adapt(model, pixels(channels, size)),
        name="tiny",
        architecture="tiny",
        statistics=STATISTICS,
        view=view or View((channels, channels), (size, None)),
    )


def test_logits_and_features_are_the_networks_own() -> None:
    model = tiny()
    x = pixels()
    outputs = teacher_of(model)(x)
    normalized = (x - 0.5) / 0.25
    assert torch.equal(outputs.logits, model(normalized))
    maps = model.forward_features(normalized)  # type: ignore[operator]
    assert torch.equal(outputs.features, model.forward_head(maps, pre_logits=True))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (tiny(), ["layer2", -1]),
        (build_model(Blueprint("cifar_vgg11")), ["features.3", "features"]),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6 * 900, 4)), [0, 0]),
    ],
    ids=["timm", "ours", "hooked"],
)
def test_layers_are_read_beside_the_outputs(model: nn.Module, layers: list[Layer]) -> None:
    teacher, x = teacher_of(model), pixels()
    before = teacher(x)
    assert before.intermediates == ()
    widths = teacher.read_layers(layers)
    outputs = teacher(x)
    assert [layer.shape[1] for layer in outputs.intermediates] == widths
    assert torch.equal(outputs.logits, before.logits)
    assert torch.equal(outputs.features, before.features)
    teacher.group_classes([[0], [1, 2]], None)
    assert len(teacher(x).intermediates) == 2
    with pytest.raises(UserError, match="The teacher tiny has no such layer"):
        teacher.read_layers(["nowhere"])


def test_is_frozen_and_stays_in_eval_mode() -> None:
    teacher = teacher_of(tiny())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    teacher(pixels(count=8))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_gradients_reach_the_pixels() -> None:
    x = pixels(channels=1, size=24).requires_grad_()
    teacher = teacher_of(tiny(), channels=3, view=View((1, 3), (24, 32)))
    (gradient,) = torch.autograd.grad(teacher.features(x).square().sum(), x)
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_classifier_maps_features_to_logits(name: str) -> None:
    args = {"img_size": 32} if "vit" in name else {}
    teacher = teacher_of(tiny(name, **args))
    classifier = teacher.classifier()
    assert classifier is not None
    outputs = teacher(pixels())
    torch.testing.assert_close(nn.functional.linear(outputs.features, *classifier), outputs.logits)


def test_nonlinear_head_has_no_classifier() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> Outputs:
            features = x.flatten(1)[:, :12]
            return Outputs(self.linear(features).square(), features)

    assert teacher_of(Doubled()).classifier() is None


def test_other_peoples_classifiers_are_hooked() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    ).eval()
    outputs = teacher_of(model)(pixels())
    normalized = (pixels() - 0.5) / 0.25
    assert torch.equal(outputs.features, model[:3](normalized))
    assert torch.equal(outputs.logits, model(normalized))


def test_classifier_without_linear_layer_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="no linear layer's output"):
        teacher_of(model)


def test_folder_round_trip(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "student")
    x = pixels(channels=1)
    for source in (f"local-dir:{tmp_path / 'student'}", str(tmp_path), f"local-dir:{tmp_path}"):
        teacher = load_teacher(source, channels=1, image_size=32)
        assert torch.equal(teacher.logits(x), model((x - 0.5) / 0.25))
        assert (teacher.architecture, teacher.width, teacher.num_classes) == ("test_resnet", 96, 10)
        assert (teacher.class_names, teacher.channels, teacher.image_size) == (LABELS, 1, 32)
        assert teacher.provenance["load"] == {
            "matched": len(model.state_dict()),
            "missing": 0,
            "unexpected": 0,
            "wrong_shape": 0,
        }


def test_features_only_has_no_classes(tmp_path: Path) -> None:
    tiny_folder(tmp_path)
    teacher = load_teacher(str(tmp_path), channels=1, image_size=32, features_only=True)
    assert teacher.num_classes is None
    assert teacher.class_names is None
    assert teacher.classifier() is None
