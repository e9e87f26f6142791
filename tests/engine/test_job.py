"""Figures that a teacher comes with, and whether they are those of this run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import Fit
from rrm_transfer.engine.evaluation import PGDSpec
from rrm_transfer.engine.job import _Job
from rrm_transfer.engine.metrics import Metrics, row
from rrm_transfer.engine.model_facts import ModelFacts
from rrm_transfer.engine.progress import Narrator
from rrm_transfer.recipe.loading import build_recipe
from tests.engine.small import small_images


@pytest.mark.parametrize(("size", "taken"), [(32, True), (64, False)])
def test_figures_are_taken_over_only_where_the_teacher_sees_images_of_its_size(
    size: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, threat = small_images(20), ThreatModel("Linf", 8 / 255)
    clean = row("student", "test", Proportion(15, 20), attack="none")
    attacked = row(
        "student", "test", Proportion(9, 20), attack="pgd", norm="Linf", eps=threat.eps, steps=20, restarts=1
    )
    Metrics([clean, attacked], data=images.fingerprint).write(tmp_path / "metrics.json")
    job: Any = object.__new__(_Job)
    job.recipe = build_recipe({"student": {"name": "a"}, "teacher": {"name": "b"}})
    job.images, job.specs, job.narrator = images, [PGDSpec(threat, 20, 1)], Narrator()
    job.assembly = SimpleNamespace(
        teacher=SimpleNamespace(name="b", image_size=32, num_classes=4),
        teacher_facts=ModelFacts(metrics=tmp_path / "metrics.json"),
        data=SimpleNamespace(num_classes=4),
        fit=Fit("pad", size),
    )
    monkeypatch.setattr(_Job, "_measure", lambda *_: ["measured"])
    rows, _ = job._teacher_rows()
    assert rows != ["measured"] if taken else rows == ["measured"]
