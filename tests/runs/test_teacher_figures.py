"""Figures that a teacher comes with or an earlier run kept, and whether they are those of this run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrm_transfer.attacks.attack import Attack
from rrm_transfer.attacks.catalogue import pgd_attack
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import Fit
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.metrics import Metrics, Model, Row, row
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.runs.models import ModelFacts
from rrm_transfer.runs.spent import Spent
from rrm_transfer.runs.teacher import teacher_figures, teacher_spent
from rrm_transfer.runtime.context import Context
from rrm_transfer.training.passes import Passes
from tests.training.small import small_images

ATTACK = pgd_attack(ThreatModel("Linf", 8 / 255), steps=20, restarts=1, seed=0)


class Teacher:
    """Counts what it is asked, and answers with ``clean`` right images of 20, 9 of them under attack."""

    name, image_size, num_classes = "b", 32, 4

    def __init__(self, clean: int = 15) -> None:
        self.clean = clean
        self.measured: list[int] = []

    def fingerprint(self) -> str:
        return "b"

    def measure(self, attacks: Sequence[Attack]) -> list[Row]:
        self.measured.append(len(attacks))
        return rows("teacher", self.clean)[: 1 + len(attacks)]


def rows(model: Model, clean: int = 15) -> list[Row]:
    attack: dict[str, Any] = {"attack": "pgd", "norm": "Linf", "eps": 8 / 255, "steps": 20, "restarts": 1}
    return [row(model, "test", Proportion(clean, 20)), row(model, "test", Proportion(9, 20), **attack)]


def a_setup(teacher: Teacher, *, size: int = 32, classes: int = 4, metrics: Path | None = None) -> Any:
    context = Context.begin()
    return SimpleNamespace(
        teacher=teacher,
        teacher_facts=ModelFacts(metrics=metrics),
        loaded=SimpleNamespace(
            images=SimpleNamespace(num_classes=classes), image_size=size, fit=Fit("pad", size)
        ),
        recipe=build_recipe({"student": {"name": "a"}, "teacher": {"name": "b"}}),
        measurement=Measurement(size, 20, 0, context),
        context=context,
    )


def figures(teacher: Teacher, **facts: Any) -> list[Row]:
    found, _ = teacher_figures(a_setup(teacher, **facts), small_images(20), [ATTACK], teacher.measure)
    return found


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("size", "taken"), [(32, True), (64, False)])
def test_published_figures_hold_only_where_the_teacher_sees_images_of_its_size(
    size: int, taken: bool, tmp_path: Path
) -> None:
    Metrics(rows("student"), data=small_images(20).fingerprint).write(tmp_path / "metrics.json")
    teacher = Teacher()
    assert figures(teacher, size=size, metrics=tmp_path / "metrics.json") == rows("teacher")
    assert teacher.measured == ([] if taken else [1])


def test_what_its_own_training_took_is_known_where_its_run_tells_it(tmp_path: Path) -> None:
    spent = Spent(Passes(20, 3.0), 480.0, "1 × a GPU", 2.5)
    timing = {"student": {**spent.to_json(), "steps": 9}}
    Metrics(rows("student"), timing=timing).write(tmp_path / "metrics.json")
    assert teacher_spent(a_setup(Teacher(), metrics=tmp_path / "metrics.json")) == spent
    assert teacher_spent(a_setup(Teacher())) == Spent()


def test_a_second_run_asks_about_clean_images_only() -> None:
    teacher = Teacher()
    assert figures(teacher) == figures(teacher) == rows("teacher")
    assert teacher.measured == [1, 0]


def test_kept_figures_that_are_no_longer_true_are_measured_again() -> None:
    figures(Teacher())
    another = Teacher(clean=14)
    assert figures(another) == rows("teacher", 14)
    assert another.measured == [0, 1]


@pytest.mark.parametrize("content", ["", "{}", "[1"])
def test_a_damaged_file_is_measured_again(content: str, tmp_path: Path) -> None:
    figures(Teacher())
    [file] = (tmp_path / "cache" / "figures").iterdir()
    file.write_text(content)
    teacher = Teacher()
    assert figures(teacher) == rows("teacher")
    assert teacher.measured == [1]


def test_a_teacher_of_other_classes_has_none() -> None:
    teacher = Teacher()
    assert figures(teacher, classes=3) == []
    assert teacher.measured == []
