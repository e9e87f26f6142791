"""What is measured of a teacher before it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import NAMED_STATISTICS
from rrm_transfer.data.images import DataSet, MemoryImages
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs import models
from rrm_transfer.runs.teacher import quick_accuracy
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


def test_classes_in_another_order_are_matched_by_name_as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 2
    pixels = (60 + 140 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE).contiguous()
    images = MemoryImages(pixels=pixels, labels=labels)
    data = DataSet("toys", images, None, images, ("dark", "light"), 2, 1, None, "here")
    monkeypatch.setattr(models, "find_origin", lambda *_, **__: None)
    monkeypatch.setattr(models, "load_dataset_by_name", lambda *_, **__: data)
    monkeypatch.setattr(models, "load_teacher", lambda *_, **options: brightness(**options))
    source = TeacherSection(name="brightness")
    found = quick_accuracy(source, "toys", Context.begin(), allow_code=frozenset())
    assert (found["clean"], found["robust"], found["count"]) == (1.0, 1.0, 40)
    assert found["verdict"] == "accurate and robust to a short attack"
