from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.students import build_student, save_student
from rrm_transfer.teachers.inspection import inspect_teacher
from rrm_transfer.teachers.loading import load_teacher
from tests.teachers.fixtures import pixels, tiny, tiny_folder
from tests.teachers.forms import cifar_state, hollow, statistics


def saved(folder: Path, content: dict[str, torch.Tensor]) -> str:
    save_file({name: tensor.contiguous() for name, tensor in content.items()}, folder / "teacher.safetensors")
    return str(folder / "teacher.safetensors")


def test_exported_student_with_cifar_stem_is_a_teacher(tmp_path: Path) -> None:
    student = build_student("resnet18", num_classes=10, channels=3, image_size=32, args={"stem": "cifar"})
    student.eval()
    save_student(student, tmp_path / "student", sample=pixels(), class_names=None, license=None, rrm={})
    teacher = load_teacher(str(tmp_path), channels=3, image_size=32)
    assert teacher.architecture == "resnet18+cifar_stem"
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(pixels()), student(pixels()).logits, rtol=1e-4, atol=1e-5)


def test_what_the_user_says_about_normalization_wins(tmp_path: Path) -> None:
    source = saved(tmp_path, {**cifar_state(), **statistics("mu", "sigma")})
    own = load_teacher(source, channels=3, image_size=32)
    assert own.provenance["normalization_from"] == "the weights file"
    told = load_teacher(source, channels=3, image_size=32, normalization="cifar10")
    assert (told.provenance["normalization"], told.provenance["normalization_from"]) == (
        "cifar10",
        "the user",
    )


def test_timm_name_with_a_file(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny().state_dict())
    teacher = load_teacher(
        "test_resnet", channels=1, image_size=28, weights=Path(source), normalization="none"
    )
    assert (teacher.architecture, teacher.num_classes, teacher.channels) == ("test_resnet", 10, 3)
    assert teacher.provenance["view"] == "grey to RGB"
    assert teacher(pixels(channels=1, size=28)).logits.shape == (2, 10)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_weights_that_are_named_replace_those_of_any_source(kind: str, tmp_path: Path) -> None:
    tiny_folder(tmp_path / "folder", channels=3)
    source = tmp_path / "folder" / "model.safetensors" if kind == "file" else tmp_path / "folder"
    other = Path(saved(tmp_path, {name: tensor + 1 for name, tensor in tiny().state_dict().items()}))
    facts = {"arch": "test_resnet", "normalization": "none"} if kind == "file" else {}
    teacher = load_teacher(str(source), channels=3, image_size=32, weights=other, **facts)  # type: ignore[arg-type]
    assert teacher.provenance["sha256"] == sha256_of(other)


def test_imagenet_network_sees_images_at_its_own_size(tmp_path: Path) -> None:
    wide = {**tiny().state_dict(), "fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}
    source = saved(tmp_path, wide)
    teacher = load_teacher(source, channels=3, image_size=32, arch="test_resnet", normalization="none")
    assert teacher.image_size == 160
    assert teacher.provenance["view"] == "32x32 to 160x160, bilinear"


def test_features_need_no_classifier(tmp_path: Path) -> None:
    headless = {name: t for name, t in tiny().state_dict().items() if not name.startswith("fc.")}
    source = saved(tmp_path, headless)
    with pytest.raises(UserError, match="2 missing"):
        load_teacher(source, channels=3, image_size=32, arch="test_resnet", normalization="none")
    teacher = load_teacher(
        source, channels=3, image_size=32, arch="test_resnet", features_only=True, normalization="none"
    )
    assert teacher.num_classes is None
    assert teacher.features(pixels()).shape == (2, 96)


def test_network_without_classifier_is_refused(tmp_path: Path) -> None:
    tiny_folder(tmp_path, channels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["num_classes"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no classifier"):
        load_teacher(str(tmp_path), channels=3, image_size=32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Not a model's config.json"),
        ("{}", "KeyError: 'architecture'"),
        ("[]", "Not a model's config.json"),
    ],
)
def test_broken_config_is_named(tmp_path: Path, content: str, message: str) -> None:
    tiny_folder(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_teacher(str(tmp_path), channels=1, image_size=32)


def test_config_without_statistics_asks_for_them(tmp_path: Path) -> None:
    tiny_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["pretrained_cfg"]["mean"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="Nothing says how the model's input is normalized"):
        load_teacher(str(tmp_path), channels=1, image_size=32)


@pytest.mark.parametrize("source", ["empty", "local-dir:absent"])
def test_folder_without_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        load_teacher(source, channels=3, image_size=32)


def test_timm_name_without_network_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached"):
        load_teacher("test_resnet", channels=3, image_size=32)


def test_factory_needs_weights_and_consent() -> None:
    with pytest.raises(UserError, match="without weights"):
        load_teacher("tests.teachers.forms:factory", channels=3, image_size=32)


def test_inspection_counts_what_loading_would_refuse(tmp_path: Path) -> None:
    deeper = saved(tmp_path, hollow("resnet34"))
    facts = inspect_teacher(deeper, arch="resnet18")
    assert (facts["matched"], facts["missing"], facts["unexpected"], facts["fits"]) == (122, 0, 96, False)
    assert json.loads(json.dumps(facts)) == facts


def test_inspection_does_not_take_a_misspelt_normalization_for_none_at_all(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "teacher")
    with pytest.raises(UserError, match="Not a normalization"):
        inspect_teacher(str(tmp_path / "teacher"), normalization="imagnet")


def test_an_auxiliary_head_is_left_out_and_counted(tmp_path: Path) -> None:
    source = saved(tmp_path, {**cifar_state(), "rotation_head.weight": torch.zeros(4, 16)})
    teacher = load_teacher(source, channels=3, image_size=32, normalization="none")
    assert teacher.provenance["load"] == {"matched": 128, "missing": 0, "unexpected": 1, "wrong_shape": 0}
