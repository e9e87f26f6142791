"""The worked examples of docs/how-to/extending.md do what the page says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from torch import nn

from rrm_transfer.attacks.attack import Victims
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.objectives.arguments import describe
from tests.documentation.pages import ROOT, blocks
from tests.objectives.fakes import make_step

EXAMPLES = [block.text for block in blocks(ROOT / "docs" / "how-to" / "extending.md", "python")]


def module(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports the example whose first line names the file ``name``."""
    (text,) = [text for text in EXAMPLES if re.match(rf"# .*{name}\.py", text)]
    (folder / f"example_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(f"example_{name}")


def test_each_example_is_short() -> None:
    assert len(EXAMPLES) == 3
    assert all(len(text.splitlines()) < 40 for text in EXAMPLES)


def test_the_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = module("mine", tmp_path, monkeypatch).Mine
    assert [argument.name for argument in describe(mine)] == ["weight"]
    step = make_step()
    terms = {term.name: term for term in mine(weight=2.0)(step)}
    student, teacher = step.student(step.x), step.clean_teacher()
    assert terms["mse"].weight == 2.0
    torch.testing.assert_close(terms["mse"].value, ((student.features - teacher.features) ** 2).mean())
    torch.testing.assert_close(terms["ce"].value, nn.functional.cross_entropy(student.logits, step.y))


def test_the_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = module("fgsm", tmp_path, monkeypatch).fgsm_attack(ThreatModel("Linf", 0.1))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    (stage,) = attack.stages
    x_adv = stage.perturb(network, Victims(torch.arange(5), x, y))
    assert float((x_adv - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    loss = nn.CrossEntropyLoss(reduction="none")
    assert bool((loss(network(x_adv), y) > loss(network(x), y)).all())


def test_the_teachers_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = module("unwrapping", tmp_path, monkeypatch).from_encoder_and_probe
    weights = timm.create_model("resnet18", num_classes=4).state_dict()
    form = {
        f"probe.{name.removeprefix('fc.')}" if name.startswith("fc.") else f"encoder.{name}": value
        for name, value in weights.items()
    }
    renamed, said = rename(form)
    assert renamed.keys() == weights.keys()
    assert said == ("encoder and probe",)
    assert rename(weights) == (weights, ())
