"""The student's forward, its head, and how it is built."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.students import Student, build_student
from rrm_transfer.students.student import kind_of


def small(name: str = "test_resnet", **changes: object) -> Student:
    settings: dict[str, object] = {"num_classes": 5, "channels": 3, "image_size": 32, "feature_width": 24}
    return build_student(name, **{**settings, **changes})  # type: ignore[arg-type]


def test_logits_are_computed_from_the_projected_features() -> None:
    student = small().eval()
    x = torch.rand(3, 3, 32, 32)
    logits, features, _ = student(x)
    assert features.shape == (3, 24)
    z = student.form.represent(student.model, student.normalize(x))
    assert z.shape == (3, student.model.head_hidden_size)
    torch.testing.assert_close(features, student.head.projection(z))
    torch.testing.assert_close(logits, student.head.classifier(features))


def test_every_trainable_parameter_gets_a_gradient_and_timms_classifier_is_frozen() -> None:
    student = small("test_vit", feature_width=None)
    student(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert {name for name, p in student.named_parameters() if p.grad is not None} == trained
    assert not trained & {"model.head.weight", "model.head.bias"}
    assert {"head.classifier.weight", "head.classifier.bias"} <= trained


def test_equal_widths_need_no_projection_unless_asked_for() -> None:
    width = small(feature_width=None).head.classifier.in_features
    assert isinstance(small(feature_width=width).head.projection, nn.Identity)
    assert isinstance(small(feature_width=width, projection="always").head.projection, nn.Linear)
    assert isinstance(small(feature_width=width + 1).head.projection, nn.Linear)


def test_without_projection_the_student_starts_as_the_timm_network() -> None:
    student = small(feature_width=None).eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(student(x).logits, student.model(student.normalize(x)))


def test_weights_depend_on_the_seed_alone_and_the_global_state_is_untouched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small(seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(100)
    again, other = small(seed=3).state_dict(), small(seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.projection.weight"], other["head.projection.weight"])
    assert not torch.equal(first["model.conv1.0.weight"], other["model.conv1.0.weight"])


def test_fold_is_the_product_of_both_maps_and_leaves_the_student_alone() -> None:
    student = small().to(memory_format=torch.channels_last).eval()
    before = copy.deepcopy(student.state_dict())
    folded = student.fold()
    assert isinstance(student.head.projection, nn.Linear)
    product = student.head.classifier.weight.double() @ student.head.projection.weight.double()
    torch.testing.assert_close(folded.get_parameter("fc.weight").double(), product, rtol=1e-6, atol=1e-7)
    assert all(parameter.is_contiguous() and parameter.requires_grad for parameter in folded.parameters())
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(folded(student.normalize(x)), student(x).logits)


def test_a_teachers_classifier_is_taken_over_and_frozen() -> None:
    student = small()
    weight, bias = torch.randn(5, 24), torch.randn(5)
    student.adopt_classifier(weight, bias, frozen=True)
    logits, features, _ = student.eval()(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(logits, features @ weight.T + bias)
    assert not any(parameter.requires_grad for parameter in student.head.classifier.parameters())
    student.adopt_classifier(weight, bias, frozen=False)
    assert all(parameter.requires_grad for parameter in student.head.classifier.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_layers_are_projected_for_training_and_leave_no_trace_in_the_export(name: str) -> None:
    x = torch.rand(3, 3, 32, 32)
    plain, student = small(name), small(name)
    state = torch.get_rng_state()
    student.read_layers([-2, 0], [7, 9], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    outputs = student.eval()(x)
    assert [tuple(layer.shape) for layer in outputs.intermediates] == [(3, 7), (3, 9)]
    assert torch.equal(outputs.logits, plain.eval()(x).logits)
    assert student.state_dict().keys() - plain.state_dict().keys() == {
        f"layer_projections.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")
    }
    twin = small(name)
    twin.read_layers([-2, 0], [7, 9], seed=3)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), twin.parameters(), strict=True))
    assert student.fold().state_dict().keys() == plain.fold().state_dict().keys()
    sum(layer.sum() for layer in outputs.intermediates).backward()
    assert all(p.grad is not None for p in student.layer_projections.parameters())


def test_an_unknown_layer_lists_those_of_the_network() -> None:
    with pytest.raises(UserError, match="test_resnet has no such layer") as caught:
        small().read_layers(["blocks.3"], [7], seed=0)
    assert "act1, layer1, layer2, layer3, layer4" in str(caught.value)


def test_default_normalization_is_the_architectures_and_averages_to_grey() -> None:
    config = timm.models.get_pretrained_cfg("resnet18")
    assert small("resnet18").normalize.statistics.mean == tuple(config.mean)
    grey = small("resnet18", channels=1).normalize.statistics
    assert grey.mean == pytest.approx((sum(config.mean) / 3,))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test_resnet", "convolutional"),
        ("test_nfnet", "convolutional"),
        ("test_efficientnet", "convolutional"),
        ("test_vit", "transformer"),
        ("test_convnext", "transformer"),
        ("resmlp_12_224", "transformer"),
    ],
)
def test_kind_is_decided_by_the_normalization_layers(name: str, kind: str) -> None:
    with torch.device("meta"):
        assert kind_of(timm.create_model(name)) == kind


def test_unknown_argument_lists_what_the_architecture_takes() -> None:
    with pytest.raises(UserError, match="no argument 'patch'") as caught:
        small("test_vit", args={"patch": 3})
    assert "patch_size" in str(caught.value)


def test_arguments_that_timm_cannot_use_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="timm cannot build test_resnet") as caught:
        small(args={"output_stride": 5})
    assert "output_stride=5" in str(caught.value)


def test_encoders_are_not_classifiers() -> None:
    with pytest.raises(UserError, match="Not a classifier") as caught:
        small("qwen3_vit_88m_enc")
    assert caught.value.hint
    assert "qwen3_vit_88m" in caught.value.hint


def test_local_weights_load_strictly_but_for_the_classifier(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=7)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    student = small(weights=path)
    assert torch.equal(student.model.get_parameter("conv1.0.weight"), source.conv1[0].weight)
    same_classes = small(weights=path, num_classes=7, feature_width=None)
    assert torch.equal(same_classes.head.classifier.weight, source.fc.weight)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    from_pth = small(weights=tmp_path / "weights.pth", num_classes=7, feature_width=None)
    assert torch.equal(from_pth.head.classifier.weight, source.fc.weight)


def test_local_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(UserError, match="weights for test_resnet do not fit") as caught:
        small(weights=path)
    assert "conv1.0.weight" in str(caught.value)
    (tmp_path / "broken.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="a web page"):
        small(weights=tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match="no such file"):
        small(weights=tmp_path / "absent.pth")


def test_pretrained_without_network_is_a_clear_error_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached") as caught:
        small("resnet50", pretrained=True)
    assert "--student-weights" in str(caught.value)


def test_pretrained_without_published_weights_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="no weights"):
        small("coatnet_pico_rw_224", pretrained=True, image_size=224)
