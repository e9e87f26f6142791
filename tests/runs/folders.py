"""Finished run folders without a run, to be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Metrics, Model, Row, row
from rrm_transfer.recipe.loading import build_recipe, dump_recipe
from rrm_transfer.runs.folder import RunFolder
from rrm_transfer.training.passes import Passes
from tests.report.fixtures import environment, network_config

EPS = 8 / 255
IMAGES = "00ff" * 16
MACHINE = "cpu, 2 cores, 1 threads"


def figures(model: Model, clean: int, robust: int, count: int = 1000) -> list[Row]:
    attack: dict[str, Any] = {"attack": "pgd", "norm": "Linf", "eps": EPS, "steps": 20, "restarts": 1}
    return [
        row(model, "test", Proportion(clean, count), kept=range(clean)),
        row(model, "test", Proportion(robust, count), kept=range(robust), **attack),
    ]


def write_run(
    path: Path,
    objective: str = "rrm",
    *,
    robust: int = 500,
    clean: int = 800,
    seconds: float = 60.0,
    passes: float | None = 1.5,
    control: float | None = None,
    teacher: float | None = None,
    seed: int = 0,
    count: int = 1000,
    images: str = IMAGES,
    machine: str = MACHINE,
    student: str = "test_resnet",
    further: list[Row] | None = None,
    recipe: dict[str, Any] | None = None,
    **arguments: Any,
) -> RunFolder:
    """Writes what a comparison reads.

    ``control`` and ``teacher`` are seconds of training, ``passes`` those of the student on one image.
    """
    folder = RunFolder(path)
    path.mkdir(parents=True)
    content: dict[str, Any] = {
        "seed": seed,
        "teacher": None if objective == "natural" else {"name": "fashion_mnist_linf"},
        "student": {"name": student},
        "data": {"name": "fashion-mnist-mini", "image_size": 32},
        "objective": {"name": objective, **arguments},
        "train": {"epochs": 6},
        "control": {"enabled": control is not None, "epochs": 6},
    }
    content |= recipe or {}
    folder.recipe.write_text(dump_recipe(build_recipe(content)), encoding="utf-8")
    folder.environment.write_text(json.dumps(environment(processes=1, devices=[machine])), encoding="utf-8")
    folder.student.mkdir()
    (folder.student / "config.json").write_text(json.dumps(network_config()), encoding="utf-8")
    rows = figures("student", clean, robust, count) + (further or [])
    timing: dict[str, Any] = {"student": _timing(seconds, passes)}
    if control is not None:
        rows += figures("control", 870, 30, count)
        timing["control"] = _timing(control, 1.0)
    if teacher is not None:
        rows += figures("teacher", 850, 700, count)
        timing["teacher"] = _timing(teacher, 3.0)
    Metrics(rows, data=images, timing=timing).write(folder.metrics)
    return folder


def _timing(seconds: float, passes: float | None) -> dict[str, Any]:
    counted = {} if passes is None else {"passes": Passes(6, passes).to_json()}
    return {"train_seconds": seconds, **counted}


def write_grid(folder: Path) -> Path:
    """Writes the runs of two students and three methods, one of them with two seeds."""
    for student, robust in (("test_resnet", 500), ("test_vit", 520)):
        write_run(folder / f"{student}-natural", "natural", robust=20, student=student, passes=1.0)
        for seed in (0, 1):
            name = folder / f"{student}-rrm-{seed}"
            write_run(name, robust=400 + 10 * seed, seed=seed, student=student, seconds=70)
        write_run(folder / f"{student}-kd", "kd", robust=robust, student=student, seconds=66, teacher=480.0)
    return folder


def write_evaluation(folder: RunFolder, name: str, rows: list[Row], **facts: Any) -> None:
    folder.evaluations.mkdir(exist_ok=True)
    Metrics(rows, **{"data": IMAGES, **facts}).write(folder.evaluations / f"{name}.json")
