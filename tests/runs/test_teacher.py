"""What is measured of a teacher before it is used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import NAMED_STATISTICS
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.images import DataSet, MemoryImages
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.objectives import build_objective
from rrm_transfer.recipe.schema import DataSection, TeacherSection
from rrm_transfer.runs import models
from rrm_transfer.runs.teacher import check_teacher, quick_accuracy
from rrm_transfer.runtime.context import Context
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View

SIZE = 32


class Brightness(nn.Module):
    """Two classes: light, then dark."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 2)
        self.fc.weight.data = torch.tensor([[1.0], [-1.0]])
        self.fc.bias.data = torch.tensor([-0.5, 0.5])

    def forward(self, x: torch.Tensor) -> Outputs:
        features = x.mean((2, 3))
        return Outputs(self.fc(features), features)


def brightness(**_: Any) -> Teacher:
    return Teacher(
        Brightness(),
        name="brightness",
        architecture="brightness",
        statistics=NAMED_STATISTICS["none"],
        view=View((1, 1), (SIZE, SIZE)),
        class_names=("light", "dark"),
    )


def measured(monkeypatch: pytest.MonkeyPatch, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    images = MemoryImages(
        pixels=pixels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE).contiguous(), labels=labels
    )
    data = DataSet("toys", images, None, images, ("dark", "light"), 2, 1, None, "here")
    monkeypatch.setattr(models, "find_origin", lambda *_, **__: None)
    monkeypatch.setattr(models, "load_dataset_by_name", lambda *_, **__: data)
    monkeypatch.setattr(models, "load_teacher", lambda *_, **options: brightness(**options))
    source = TeacherSection(name="brightness")
    return quick_accuracy(source, "toys", Context.begin(), allow_code=frozenset())


def test_classes_in_another_order_are_matched_by_name_as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 2
    found = measured(monkeypatch, 60 + 140 * labels, labels)
    assert (found["clean"], found["robust"], found["robust_2eps"], found["count"]) == (1.0, 1.0, 1.0, 40)
    assert found["verdict"] == "accurate and robust to a short attack"


@pytest.mark.parametrize(
    ("near", "far", "words"),
    [
        (24, 8, "accurate and robust to a short attack"),
        (24, 0, "accurate, but only WEAKLY robust"),
        (16, 8, "accurate, but only WEAKLY robust"),
        (14, 1, "accurate, NOT robust"),
        (6, 6, "accurate, NOT robust"),
    ],
)
def test_networks_between_are_told_apart(
    near: int, far: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 images ``near`` are farther than 8/255 from the other class, ``far`` of those than 16/255."""
    margins = torch.tensor([40] * far + [12] * (near - far) + [4] * (40 - near))
    labels = torch.arange(40) % 2
    found = measured(monkeypatch, 127.5 + (margins + 0.5) * (2 * labels - 1), labels)
    assert (found["clean"], found["robust"], found["robust_2eps"]) == (1.0, near / 40, far / 40)
    assert found["verdict"] == words


def test_the_entropy_of_the_answers_is_that_of_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 2
    found = measured(monkeypatch, 60 + 140 * labels, labels)
    light = torch.sigmoid(2 * (torch.tensor([60, 200]) / 255 - 0.5))
    expected = -(light * light.log() + (1 - light) * (1 - light).log()).mean()
    assert found["entropy"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("rrm", "can inherit no robustness"),
        ("rrm-adv", "the objective's own attack"),
        ("kd-adv", "the objective's own attack"),
        ("rslad", "the objective's own attack"),
    ],
)
def test_what_an_undefended_teacher_means_depends_on_the_objective(objective: str, words: str) -> None:
    told: list[str] = []
    context = Context.begin()
    labels = torch.arange(40) % 2
    pixels = (127.5 + 4.5 * (1 - 2 * labels)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE)
    images = MemoryImages(pixels=pixels.contiguous(), labels=labels)
    data = DataSet("toys", images, None, images, ("light", "dark"), 2, 1, None, "here")
    section = DataSection(name="toys")
    narrator = SimpleNamespace(note=lambda _: None, warn=told.append, task=context.narrator.task)
    setup: Any = SimpleNamespace(
        teacher=brightness(),
        teacher_facts=models.ModelFacts(),
        recipe=SimpleNamespace(teacher=TeacherSection(name="brightness")),
        loaded=models.LoadedData(section, data, SIZE, BrokenImages(0, told.append)),
        threat=ThreatModel("Linf", 8 / 255),
        objective=build_objective(objective),
        measurement=Measurement(SIZE, 64, 0, context),
        context=SimpleNamespace(narrator=narrator),
    )
    assert [row.accuracy for row in check_teacher(setup)] == [1.0, 0.0]
    [warning] = told
    assert "not robust at Linf 8/255: it keeps 0% (0% to " in warning
    assert words in warning
