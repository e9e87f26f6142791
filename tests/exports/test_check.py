"""What is left of accuracy after an export, and quantization to 8 bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer import load_student
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.evaluation.gallery import make_gallery
from rrm_transfer.exports import check as checking
from rrm_transfer.exports import formats
from rrm_transfer.exports.check import check_export
from rrm_transfer.exports.formats import EXPORT_TOLERANCE, difference, export
from rrm_transfer.exports.onnx import quantize, write_onnx
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import build_student
from tests.cli.conftest import Cli, cli
from tests.evaluation import fixtures
from tests.report.fixtures import network_config
from tests.runs.folders import write_run

__all__ = ["cli"]

THREAT = ThreatModel("Linf", 0.02)


class Answers(nn.Module):
    """A network's logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("check") / "run")
    student = build_student("test_resnet", num_classes=10, channels=1, image_size=32, args={}, seed=1)
    how = fixtures.measurement()
    attack = how.pgd(THREAT, steps=1)
    gallery = make_gallery(student, fixtures.images(40), attack, how, class_names=None)
    gallery.write(folder.gallery)
    config = network_config()["rrm"]
    save_student(student, folder.student, sample=gallery.x, class_names=None, license=None, rrm=config)
    return folder.path


@pytest.mark.slow
def test_a_quantized_student_answers_nearly_as_it_did(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "out" / "student.onnx"
    made = export(run, file, form="onnx-int8", with_normalization=True)
    assert EXPORT_TOLERANCE < made.error < 0.2
    assert [path.name for path in file.parent.iterdir()] == ["student.onnx"]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = torch.rand(count, 1, 32, 32)
        (logits,) = session.run(["logits"], {"input": x.numpy()})
        expected = load_student(run)(x)
        assert (torch.from_numpy(logits) - expected).abs().max() < 0.2 * expected.abs().max()


def test_weights_and_activations_have_8_bits_in_the_range_of_the_calibration(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.rand(8, 1, 6, 6)
    write_onnx(network, x, tmp_path / "exact.onnx")

    def error(scale: float) -> float:
        compute = quantize(
            tmp_path / "exact.onnx", tmp_path / f"{scale}.onnx", [scale * x[:4], scale * x[4:]]
        )
        return difference(compute, network, x)

    assert error(1.0) < 0.05 < min(error(0.1), error(100.0))
    kinds = {value.data_type for value in onnx.load(tmp_path / "1.0.onnx").graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= kinds


def test_quantized_images_are_training_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def remember(exact: Path, file: Path, calibration: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
        seen.extend(calibration)
        return load_student(run).model

    monkeypatch.setattr(formats, "require_onnx", lambda: None)
    monkeypatch.setattr(formats, "write_onnx", lambda *_: None)
    monkeypatch.setattr(formats, "quantize", remember)
    monkeypatch.setattr(formats, "CALIBRATION", 40)
    export(run, tmp_path / "a.onnx", form="onnx-int8")
    train = fixtures.data().train.balanced(40).pixels  # type: ignore[attr-defined]
    inputs = nn.functional.pad(train.float() / 255, (2, 2, 2, 2))
    torch.testing.assert_close(torch.cat(seen), load_student(run).normalize(inputs))


@pytest.mark.parametrize("lost", [0.0, 2.0])
def test_both_networks_meet_the_same_adversarial_images(lost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyautoattack")
    monkeypatch.setattr(checking, "QUERIES", 20)
    net = Answers(fixtures.plain_net())

    def exported(x: Tensor) -> Tensor:
        logits: Tensor = net(x)
        return logits - lost * nn.functional.one_hot(
            logits.argmax(1), 10
        )  # answers that were not sure change

    kept = check_export(
        net, exported, fixtures.images(60), fixtures.measurement(60), threat=THREAT,
        classes=10, form="test",
    )  # fmt: skip
    clean, transferred, square = kept
    assert [each.network.attack for each in kept] == ["none", "transfer", "square"]
    assert transferred.network.correct < clean.network.correct
    assert square.network.correct < clean.network.correct
    if lost:
        assert clean.difference.value < 0
        assert transferred.difference.value < 0
    else:
        assert [each.exported.kept for each in kept] == [each.network.kept for each in kept]
        assert {each.difference.value for each in kept} == {0.0}


def test_without_autoattack_square_is_left_out_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "library_version", lambda: None)
    said: list[str] = []
    how = fixtures.measurement(20)
    monkeypatch.setattr(type(how.context.narrator), "warn", lambda _, text: said.append(text))
    net = Answers(fixtures.plain_net())
    kept = check_export(net, net, fixtures.images(20), how, threat=THREAT, classes=10, form="test")
    assert [each.network.attack for each in kept] == ["none", "transfer"]
    assert "rrm-transfer[autoattack]" in said[0]


def test_the_command_tells_accuracies_before_and_after(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "library_version", lambda: None)
    options = ["--format", "robustbench", "--check", "--images", "30", "--output"]
    told = cli("export", str(run), *options, "a.py")
    assert told.code == 0, told.err
    for words in ("30 test images", "Linf 8/255 transfer-20", "upper bound", "+0.0"):
        assert words in told.out
    document = cli("export", str(run), *options, "b.py", "--json").document
    clean, transferred = document["kept"]
    assert (clean["attack"], transferred["attack"], transferred["count"]) == ("none", "transfer", 30)
    assert clean["pytorch"] == clean["exported"] >= transferred["exported"]
    assert clean["low"] <= clean["difference"] == 0 <= clean["high"]


def test_without_onnx_nothing_is_loaded_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"rrm-transfer\[onnx\]"):
        export(tmp_path / "no run", tmp_path / "a.onnx", form="onnx-int8")
