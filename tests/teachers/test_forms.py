from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.weights.containers import state_dict_in
from rrm_transfer.teachers.convert import convert
from rrm_transfer.teachers.loading import load_teacher
from rrm_transfer.teachers.salvage import read_inertly
from tests.teachers.fixtures import pixels
from tests.teachers.forms import FORMS, Form, cifar_state, save
from tests.teachers.malformed import MALFORMED, Malformed
from tools.teachers_page import PAGE, page

REFUSALS = Path(__file__).with_name("refusals.txt").read_text(encoding="utf-8").splitlines()
"""What is said of files that are refused, without a library's own words, and what to do then."""

EXECUTING = [case for case in MALFORMED if "os.system" in case.name]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form_is_understood(form: Form, tmp_path: Path) -> None:
    path = form.write(tmp_path)
    assert form.found(path) == form.architecture
    if form.network is None:
        return
    teacher = form.load(path)
    x = pixels()
    with torch.no_grad():
        expected = form.network()(teacher.normalize(x))
    logits = expected.logits if isinstance(expected, Outputs) else expected
    assert torch.equal(teacher.logits(x), logits)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_malformed_file_is_refused_in_words(
    case: Malformed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = case.message(tmp_path)
    assert "Traceback" not in message
    assert not Path("EXECUTED").exists()
    assert _said(message) in REFUSALS


def _said(message: str) -> str:
    first, *more = message.splitlines()
    hints = [line.partition("next:")[2].strip() for line in more if line.startswith("  next:")]
    return " → ".join([first.partition(": ")[0].rstrip("."), *hints])


def test_enough_malformed_files() -> None:
    assert len({case.name for case in MALFORMED}) == len(MALFORMED) >= 25


@pytest.mark.parametrize("case", EXECUTING, ids=lambda case: case.name)
def test_salvage_runs_nothing(case: Malformed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = case.write(tmp_path)
    found = state_dict_in(read_inertly(source), source=source).tensors
    assert not Path("EXECUTED").exists()
    expected = cifar_state()
    lost = {"fc.weight"} if "in place" in case.name else set()
    assert found.keys() | lost == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    # The usual reader does run the command: the file is what it claims to be.
    torch.load(source, weights_only=False)
    assert Path("EXECUTED").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_salvage_of_a_whole_module(tmp_path: Path, legacy: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    source = tmp_path / "module.pt"
    save(torch.nn.DataParallel(model), source, legacy=legacy)
    found = state_dict_in(read_inertly(source), source=source).tensors
    expected = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_conversion_works_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = next(case for case in EXECUTING if "dill" in case.name)
    source, target = case.write(tmp_path), tmp_path / "out.safetensors"
    convert(source, target)
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}
    teacher = load_teacher(str(target), channels=3, image_size=32, normalization="none")
    assert teacher.architecture == "resnet18+cifar_stem"
    with safe_open(target, framework="pt") as content:
        assert content.metadata()["converted_from_sha256"] == sha256_of(source)


def test_conversion_imports_nothing_from_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("torch", "pickle", "safetensors"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\n")
    torch.save({"weight": torch.ones(2)}, tmp_path / "source.pt")
    convert(Path("source.pt"), Path("out.safetensors"))
    assert (tmp_path / "out.safetensors").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [("out.pt", "must end in .safetensors"), ("there.safetensors", "stands here already")],
)
def test_conversion_refuses_bad_targets(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "there.safetensors").touch()
    torch.save({}, tmp_path / "source.pt")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "source.pt", tmp_path / target)


def test_conversion_without_tensors_writes_nothing(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "source.pt")
    with pytest.raises(UserError, match="no tensors"):
        convert(tmp_path / "source.pt", tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "source.pt"]


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.teachers_page"
