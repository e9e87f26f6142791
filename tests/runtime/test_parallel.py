"""Students in parts and synchronised batch norms: what is asked for, and that the result is the same."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from rrm_transfer.core.files import sha256_of
from rrm_transfer.runtime.configuration import read_configuration
from rrm_transfer.runtime.parallel import blocks, synchronise_statistics
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.students.student import build_student
from tests.support import tiny
from tests.support.command import Moment, command, together

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
UPDATE = "rrm_transfer.training.updating:Updater.update"


@pytest.mark.parametrize(
    ("settings", "asked"),
    [({}, False), ({"ACCELERATE_USE_FSDP": "false"}, False), (FSDP2, True), ({"FSDP_VERSION": "2"}, False)],
)
def test_sharding_is_read_from_accelerates_configuration(
    settings: dict[str, str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    assert read_configuration().sharding == asked
    assert not Runtime().sharding, "one process holds everything"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_vit", {"blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5"}),
        ("test_resnet", {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}),
    ],
)
def test_blocks_are_the_repeated_parts(name: str, expected: set[str]) -> None:
    model = timm.create_model(name)
    names = {module: path for path, module in model.named_modules()}
    assert {names[block] for block in blocks(model)} == expected


def test_inner_blocks_come_first() -> None:
    model = timm.create_model("test_convnext")
    names = {module: path for path, module in model.named_modules()}
    found = [names[block] for block in blocks(model)]
    assert {"stages.0", "stages.1.blocks.0"} <= set(found)
    assert found.index("stages.1.blocks.0") < found.index("stages.1")


def test_synchronised_batch_norms_keep_names_and_answers() -> None:
    model = timm.create_model("test_resnet", num_classes=4).eval()
    synchronised = synchronise_statistics(model)
    assert any("SyncBatchNorm" in type(module).__name__ for module in synchronised.modules())
    assert not any("SyncBatchNorm" in type(module).__name__ for module in model.modules())
    assert synchronised.state_dict().keys() == model.state_dict().keys()
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(synchronised(x), model(x))


def test_batch_norms_are_not_synchronised_on_a_cpu(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = tiny.recipe_options(tiny_teacher, tiny_data)
    refused = command(
        "run", *options, "--set", "train.sync_batchnorm=true", "--output", "run", folder=tmp_path
    )
    assert (refused.code, "GPUs only" in refused.err) == (2, True)
    assert not (tmp_path / "run").exists()


def _options(teacher: Path, data: Path, student: str) -> list[str]:
    settings = {"train.optimizer": "adamw", "train.lr": 1e-3, "train.clip_grad": 1.0, "train.accumulation": 2}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    short = ["--no-control", "--skip-teacher-check", "--quiet", "--objective", "rrm-adv"]
    return ["run", *tiny.recipe_options(teacher, data, student=student), *short, *sets]


def _anchored(folder: Path) -> list[str]:
    weights = folder / "weights.safetensors"
    student = build_student("test_vit", num_classes=tiny.CLASSES, channels=1, image_size=32)
    save_file(student.model.state_dict(), weights)
    sets = ["--set", "objective.anchor=start", "--set", "objective.anchor_weight=0.5"]
    return ["--student-weights", str(weights), *sets]


@pytest.mark.parametrize(
    ("student", "anchored"),
    [
        ("test_vit", False),
        pytest.param("test_resnet", False, marks=pytest.mark.slow),
        pytest.param("test_vit", True, marks=pytest.mark.slow),
    ],
)
def test_a_student_in_parts_is_trained_like_a_whole_one_and_survives_a_kill(
    student: str, anchored: bool, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = _options(tiny_teacher, tiny_data, student) + (_anchored(tmp_path) if anchored else [])

    def run(output: str, parts: bool, moment: Moment | None = None) -> list[int]:
        commands = together(
            [*options, "--output", output, "--resume"],
            folder=tmp_path,
            moments=[None, moment],
            environment=FSDP2 if parts else None,
        )
        ended = [running.end() for running in commands]
        print(*(each.err for each in ended))
        return [each.code for each in ended]

    assert run("whole", False) == [0, 0]
    assert run("parts", True) == [0, 0]
    assert run("killed", True, Moment(UPDATE, 5, signal.SIGKILL))[1] == -signal.SIGKILL
    assert run("killed", True) == [0, 0]
    whole, parts = (
        load_file(tmp_path / name / "checkpoints" / "student-final" / "state.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=2e-5)
    weights = [sha256_of(tmp_path / name / "student" / "model.safetensors") for name in ("parts", "killed")]
    assert weights[0] == weights[1]
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "parts")]
    assert [row["count"] for row in metrics[0]["rows"]] == [row["count"] for row in metrics[1]["rows"]]
