"""What is measured of a teacher before it is used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.images import DataSet, MemoryImages
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.objectives import build_objective
from rrm_transfer.recipe.schema import DataSection, TeacherSection
from rrm_transfer.runs import models
from rrm_transfer.runs.teacher import check_teacher
from rrm_transfer.runtime.context import Context
from tests.runs.toys import SIZE, brightness


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
