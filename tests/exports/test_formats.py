"""Other forms of a student answer as it does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rrm_transfer import load_student
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.gallery import Gallery
from rrm_transfer.evaluation.metrics import Metrics, row
from rrm_transfer.exports import formats
from rrm_transfer.exports.formats import EXPORT_TOLERANCE, export
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import build_student
from tests.cli.conftest import Cli, cli
from tests.report.fixtures import network_config
from tests.runs.folders import write_run

__all__ = ["cli"]

EPS = 8 / 255


def _run(path: Path, name: str = "test_resnet", **args: object) -> Path:
    """Writes what an export needs of a run folder."""
    student = build_student(name, num_classes=4, channels=3, image_size=32, args=args, seed=1)
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    folder = write_run(path)
    config = network_config()["rrm"] | {"dataset": "uoft-cs/cifar10"}
    save_student(student, folder.student, sample=x, class_names=None, license=None, rrm=config)
    logits, labels = (torch.zeros(2, 6, *shape) for shape in ((4,), ()))
    index, classes = labels.long().clone()
    Gallery(
        ThreatModel("Linf", EPS), 1, 1, None, index.clone(), classes.clone(), x, x.clone(),
        logits[0].clone(), logits[1].clone(),
    ).write(folder.gallery)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run(tmp_path_factory.mktemp("formats") / "run")


def test_the_best_weights_are_exported_by_the_name_of_their_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="selected no best weights"):
        export(run / "student-best", tmp_path / "best.pt2", form="torch-export")
    path = Path(shutil.copytree(run, tmp_path / "run"))
    student = build_student("test_resnet", num_classes=4, channels=3, image_size=32, seed=2)
    config = json.loads((run / "student/config.json").read_text(encoding="utf-8"))["rrm"]
    best = path / "student-best"
    save_student(student, best, sample=torch.rand(2, 3, 32, 32), rrm=config | {"model": "student-best"})
    export(best, tmp_path / "best.pt2", form="torch-export", with_normalization=True)
    with torch.no_grad():
        x = torch.rand(3, 3, 32, 32)
        logits = torch.export.load(tmp_path / "best.pt2").module()(x)
        torch.testing.assert_close(logits, load_student(best)(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, _logits(path, x))
    with pytest.raises(UserError, match="among the run's own files"):
        export(best, path / "Me2026.py", form="robustbench")


def _logits(run: Path, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = load_student(run)(x)
        return logits


def test_onnx_takes_pixels_and_any_batch(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = export(run, tmp_path / "student.onnx", form="onnx", with_normalization=True)
    assert made.error <= EXPORT_TOLERANCE
    assert (made.images, made.normalizes) == (6, True)
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = torch.rand(count, 3, 32, 32)
        (logits,) = session.run(["logits"], {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), _logits(run, x), rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["student.onnx"]


def test_torch_export_takes_normalized_images_and_any_batch(run: Path, tmp_path: Path) -> None:
    made = export(run, tmp_path / "student.pt2", form="torch-export")
    assert not made.normalizes
    program = torch.export.load(tmp_path / "student.pt2").module()
    for count in (1, 3):
        x = torch.rand(count, 3, 32, 32)
        logits = program(load_student(run).normalize(x))
        torch.testing.assert_close(logits, _logits(run, x), rtol=1e-4, atol=1e-5)


RELOAD = """
import sys, torch
from Me2026 import load_model
assert not any(name.startswith("rrm_transfer") for name in sys.modules)
with torch.no_grad():
    torch.save(load_model()(torch.load("x.pt", weights_only=True)), "logits.pt")
"""


@pytest.mark.parametrize(
    ("name", "args"), [("test_resnet", {}), ("resnet10t", {"stem": "cifar"}), ("test_vit", {})]
)
def test_the_robustbench_adapter_stands_alone(name: str, args: dict[str, object], tmp_path: Path) -> None:
    run = _run(tmp_path / "run", name, **args)
    place = tmp_path / "submission"
    place.mkdir()
    made = export(run, place / "Me2026.py", form="robustbench")
    assert sorted(file.name for file in made.files) == ["Me2026.json", "Me2026.py", "Me2026.safetensors"]
    assert made.error <= EXPORT_TOLERANCE
    x = torch.rand(2, 3, 32, 32)
    if name == "test_resnet":
        torch.save(x, place / "x.pt")
        (place / "main.py").write_text(RELOAD, encoding="utf-8")
        fresh = subprocess.run(
            [sys.executable, "main.py"], cwd=place, capture_output=True, text=True, check=False
        )
        assert fresh.returncode == 0, fresh.stderr
        torch.testing.assert_close(torch.load(place / "logits.pt", weights_only=True), _logits(run, x))
    claim = json.loads((place / "Me2026.json").read_text(encoding="utf-8"))
    assert (claim["dataset"], claim["eps"], claim["architecture"]) == ("cifar10", "8/255", name)
    assert claim["autoattack_acc"] is None


def test_a_claim_has_the_figures_of_autoattack(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(_run(tmp_path / "run"))
    folder.evaluations.mkdir()
    Metrics([row("student", "test", Proportion(9, 10))]).write(folder.metrics)
    measured = [
        row("student", "test", Proportion(815, 1000)),
        row("student", "test", Proportion(402, 1000), attack="autoattack", norm="Linf", eps=EPS),
        row("student", "test", Proportion(100, 1000), attack="autoattack", norm="Linf", eps=2 * EPS),
    ]
    Metrics(measured).write(folder.evaluations / "aa.json")
    export(folder.path, tmp_path / "Me.py", form="robustbench")
    claim = json.loads((tmp_path / "Me.json").read_text(encoding="utf-8"))
    assert (claim["clean_acc"], claim["autoattack_acc"]) == ("81.50", "40.20")


@pytest.mark.parametrize("form", ["torch-export", "robustbench"])
def test_what_computes_something_else_is_not_written(
    form: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "difference", lambda *_: 0.25)
    with pytest.raises(UserError, match=r"Nothing was exported[^$]*0\.25"):
        export(run, tmp_path / "out.py", form=form)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_seen_and_so_is_what_is_no_number() -> None:
    network, x = torch.nn.Flatten(), torch.ones(2, 1, 2, 2)
    assert formats.difference(network, network, x) == 0
    assert formats.difference(lambda x: network(x) * 1.5, network, x) == pytest.approx(0.5)
    assert not formats.difference(lambda x: network(x) * float("nan"), network, x) <= 1


def test_mistakes_are_told(run: Path, tmp_path: Path, cli: Cli) -> None:
    for options, words in (
        (["--format", "onxx", "--output", "a.onnx"], "did you mean onnx"),
        (["--format", "robustbench", "--output", "not a module.py"], "Python module"),
    ):
        ended = cli("export", str(run), *options)
        assert ended.code == 2
        assert words in ended.err
    with pytest.raises(UserError, match="No finished run"):
        export(run / "student", tmp_path / "a.pt2", form="torch-export")
    without = write_run(tmp_path / "without")
    shutil.copytree(run / "student", without.student, dirs_exist_ok=True)
    with pytest.raises(UserError, match="no test image"):
        export(without.path, tmp_path / "a.pt2", form="torch-export")


def test_a_missing_package_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"rrm-transfer\[onnx\]"):
        export(run, tmp_path / "a.onnx", form="onnx")


def test_the_command_tells_what_it_wrote(run: Path, cli: Cli) -> None:
    ended = cli("export", str(run), "--format", "torch-export", "--output", "a.pt2", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["files"] == ["a.pt2"]
    assert ended.document["relative_difference"] <= EXPORT_TOLERANCE
    assert "normalized" in cli("export", str(run), "--format", "torch-export", "--output", "b.pt2").out


def test_a_claim_has_no_figures_of_other_data(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    attacked = row("student", "test", Proportion(51, 100), attack="autoattack", norm="Linf", eps=EPS)
    clean = row("student", "test", Proportion(80, 100))
    folder = RunFolder(run)
    folder.evaluations.mkdir()
    Metrics([clean, attacked]).write(folder.evaluations / "a.json")
    easy = row("student", "test", Proportion(999, 1000), attack="autoattack", norm="Linf", eps=EPS)
    Metrics([clean, easy], conditions={"dataset": "others"}).write(folder.evaluations / "b.json")
    export(run, tmp_path / "Me2026.py", form="robustbench")
    assert json.loads((tmp_path / "Me2026.json").read_text())["autoattack_acc"] == "51.00"


@pytest.mark.parametrize("form", formats.FORMATS)
def test_files_that_stand_there_are_named_before_anything_is_written(
    form: str, run: Path, tmp_path: Path
) -> None:
    suffixes = (".json", ".safetensors") if form == "robustbench" else (".py",)
    for suffix in suffixes:
        (tmp_path / f"Me{suffix}").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="--overwrite") as caught:
        export(run, tmp_path / "Me.py", form=form)
    assert all(str(tmp_path / f"Me{suffix}") in str(caught.value) for suffix in suffixes)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        f"Me{suffix}": "mine" for suffix in suffixes
    }


def test_leave_replaces_the_files_of_an_adapter_and_no_others(run: Path, tmp_path: Path) -> None:
    for name in ("Me.json", "Me.txt"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    export(run, tmp_path / "Me.py", form="robustbench", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Me.json", "Me.py", "Me.safetensors", "Me.txt",
    ]  # fmt: skip
    assert json.loads((tmp_path / "Me.json").read_text(encoding="utf-8"))["dataset"] == "cifar10"
    assert (tmp_path / "Me.txt").read_text(encoding="utf-8") == "mine"


def test_an_adapter_does_not_replace_the_runs_own_files(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    before = (run / "student" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="among the run's own files"):
        export(run, run / "student" / "model.py", form="robustbench")
    assert (run / "student" / "model.safetensors").read_bytes() == before
