"""Weights of a user's own network as the start of a student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.students import Student, build_student, load_student, save_student
from rrm_transfer.students.pretrained import StartingWeights
from rrm_transfer.students.student import plan_student

SHAPE = {"num_classes": 3, "channels": 1, "image_size": 32}


def _images() -> Tensor:
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def _deployed(folder: Path, name: str = "test_resnet", **args: object) -> Student:
    student = build_student(name, **SHAPE, args=args, seed=5)  # type: ignore[arg-type]
    with torch.no_grad():
        student.train()(_images())  # batch statistics of its own
    save_student(student.eval(), folder, sample=_images())
    return student


@pytest.mark.parametrize(
    ("name", "args"),
    [("test_resnet", {"output_stride": 8}), ("resnet18", {"stem": "cifar"}), ("test_vit", {"depth": 2})],
)
def test_a_student_from_a_folder_answers_as_the_deployed_network(
    name: str, args: dict[str, object], tmp_path: Path
) -> None:
    _deployed(tmp_path / "run" / "student", name, **args)
    config = tmp_path / "run" / "student" / "config.json"
    content = json.loads(config.read_text())
    content["pretrained_cfg"] |= {"mean": [0.1], "std": [0.7]}
    config.write_text(json.dumps(content))
    deployed = load_student(tmp_path / "run")
    student = build_student(name, **SHAPE, weights=tmp_path / "run", seed=1).eval()  # type: ignore[arg-type]
    assert student.normalize.statistics == deployed.normalization
    built_with = {**student.model_args, "stem": student.stem}
    assert {key: built_with[key] for key in args} == args
    torch.testing.assert_close(student(_images()).logits, deployed(_images()))


def test_other_arguments_than_the_folders_win(tmp_path: Path) -> None:
    _deployed(tmp_path, output_stride=8)
    student = build_student("test_resnet", **SHAPE, weights=tmp_path, args={"output_stride": 16})  # type: ignore[arg-type]
    assert student.model_args["output_stride"] == 16


def test_a_file_gives_the_weights_and_other_classes_a_new_classifier(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    student = build_student("test_resnet", **SHAPE, weights=tmp_path / "mine.safetensors")  # type: ignore[arg-type]
    state = student.model.state_dict()
    assert {name for name, value in network.state_dict().items() if not torch.equal(state[name], value)} == (
        {"fc.weight", "fc.bias"}
    )
    assert student.head.classifier.out_features == 3


def test_another_architecture_is_told_with_the_way_out(tmp_path: Path) -> None:
    _deployed(tmp_path)
    with pytest.raises(UserError, match="another architecture's") as caught:
        build_student("test_efficientnet", **SHAPE, weights=tmp_path)  # type: ignore[arg-type]
    assert "--student test_resnet" in str(caught.value)
    with pytest.raises(UserError, match="No student here"):
        build_student("test_resnet", **SHAPE, weights=tmp_path.parent)  # type: ignore[arg-type]


def test_weights_that_must_fit_name_the_tensors_that_do_not() -> None:
    state = dict(timm.create_model("test_resnet", num_classes=9, in_chans=1).state_dict())
    state["conv1.0.weight"] = torch.zeros(5, 1, 3, 3)
    del state["bn1.bias"]
    state["further"] = torch.zeros(2)
    weights = StartingWeights("the teacher t", lambda: state, exact=True)
    with pytest.raises(UserError, match="the teacher t do not fit") as caught:
        plan_student("test_resnet", **SHAPE, weights=weights).build()  # type: ignore[arg-type]
    said = str(caught.value)
    assert all(part in said for part in ("conv1.0.weight (5, 1, 3, 3)", "bn1.bias missing", "further (2,)"))
    assert "fc." not in said  # the classifier is the data's
