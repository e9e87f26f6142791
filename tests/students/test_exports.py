"""What is written, what stock timm makes of it, and what ``load_student`` does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from rrm_transfer.core.errors import UserError
from rrm_transfer.students import Student, build_student, load_student, save_student


def export(folder: Path, name: str = "test_resnet", channels: int = 3, **args: object) -> Student:
    student = build_student(
        name, num_classes=3, channels=channels, image_size=32, feature_width=10, args=args
    )
    x = torch.rand(4, channels, 32, 32)
    student.train()(x)
    error = save_student(
        student, folder, sample=x, class_names=["cat", "dog", "owl"], license="mit", rrm={"teacher": "t"}
    )
    assert error <= 1e-5
    assert student.training
    return student.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_stock_timm_and_load_student_reload_bit_equal(name: str, channels: int, tmp_path: Path) -> None:
    student = export(tmp_path / "student", name, channels)
    x = torch.rand(2, channels, 32, 32)
    folded = student.fold()(student.normalize(x))
    stock = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    assert torch.equal(stock(student.normalize(x)), folded)
    loaded = load_student(tmp_path)
    assert torch.equal(loaded(x), folded)
    assert not loaded.training
    assert loaded.architecture == name
    assert loaded.class_names == ("cat", "dog", "owl")
    assert loaded.normalization == student.normalize.statistics
    assert (tmp_path / "student").stat().st_mode & 0o055


@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 1), ("test_vit", 3)])
def test_transformers_reloads_equal(name: str, channels: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    student = export(tmp_path / "student", name, channels)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    x = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        logits = model(pixel_values=student.normalize(x)).logits
        torch.testing.assert_close(logits, load_student(tmp_path / "student")(x))


def test_the_configuration_describes_this_student_and_not_its_source(tmp_path: Path) -> None:
    export(tmp_path / "student", "resnet18.a1_in1k")
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    recorded = config["pretrained_cfg"]
    source = timm.models.get_pretrained_cfg("resnet18.a1_in1k")
    assert source.tag == "a1_in1k"
    assert source.origin_url
    assert source.paper_ids
    assert config["architecture"] == "resnet18"
    assert config["label_names"] == ["cat", "dog", "owl"]
    assert config["rrm"] == {"teacher": "t"}
    assert config["model_args"]["output_stride"] == 8
    assert config["num_classes"] == 3
    assert "num_classes" not in config["model_args"]
    assert recorded["license"] == "mit"
    assert recorded["input_size"] == [3, 32, 32]
    assert recorded["mean"] == pytest.approx(source.mean)
    for field in ("tag", "origin_url", "paper_ids", "paper_name", "hf_hub_id", "url"):
        assert not recorded.get(field), field


def test_a_student_with_another_stem_is_refused_by_timm_and_loaded_by_us(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    student = export(folder, "resnet18", stem="cifar")
    assert not student.stock
    assert student.model.get_parameter("conv1.weight").shape == (64, 3, 3, 3)
    with pytest.raises(RuntimeError, match="load it with rrm_transfer"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    (weights,) = folder.glob("*.safetensors")
    with pytest.raises(RuntimeError, match="conv1"):
        timm.create_model("resnet18", num_classes=3, checkpoint_path=weights)
    assert weights.name != "model.safetensors"
    assert all(key.startswith("rrm_transfer.") for key in load_file(weights))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_student(folder)(x), student(x).logits)
    assert load_student(folder).architecture == "resnet18"


def test_a_stem_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="ResNet-like"):
        build_student("test_vit", num_classes=3, channels=3, image_size=32, args={"stem": "cifar"})
    with pytest.raises(UserError, match="Unknown stem"):
        build_student("resnet18", num_classes=3, channels=3, image_size=32, args={"stem": "huge"})


def test_weights_that_do_not_fold_exactly_are_not_exported(tmp_path: Path) -> None:
    student = build_student("test_resnet", num_classes=3, channels=3, image_size=32, feature_width=10)
    with torch.no_grad():
        student.head.classifier.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="was not exported"):
        save_student(
            student, tmp_path / "s", sample=torch.rand(2, 3, 32, 32), class_names=None, license=None, rrm={}
        )
    assert not list(tmp_path.iterdir())


def test_damaged_exports_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No student here"):
        load_student(tmp_path)
    export(tmp_path / "student")
    weights = tmp_path / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged or cut short"):
        load_student(tmp_path)
