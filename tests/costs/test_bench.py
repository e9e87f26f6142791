"""What steps cost: the measurement, and the arithmetic that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.costs.bench import bench
from rrm_transfer.costs.estimate import Cost, CostReport
from rrm_transfer.costs.preview import preview
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.report.costs import choice_lines, estimate_lines
from rrm_transfer.runs.spent import Spent
from rrm_transfer.runtime.machine import peak_bytes, resident_bytes
from rrm_transfer.training.passes import Passes
from rrm_transfer.training.timing import Stopwatch
from tests.support import tiny

ONE_MB = 2**20 // 4
"""float32 numbers."""


def _recipe(teacher: Path | None, data: Path, *overrides: str) -> Recipe:
    content = {
        "student": {"name": "test_resnet"},
        "data": {"name": str(data)},
        **({} if teacher is None else {"teacher": {"name": str(teacher)}}),
    }
    return build_recipe(content, [*tiny.settings(), *overrides])


def test_objectives_are_measured_in_turns(tiny_teacher: Path, tiny_data: Path) -> None:
    report = bench(_recipe(tiny_teacher, tiny_data), objectives=["rrm", "free-at", "pgd-at"], steps=3)
    assert [(cost.name, cost.cached) for cost in report.costs] == [
        ("natural", False),
        ("rrm", False),
        ("rrm", True),
        ("free-at", False),
        ("pgd-at", False),
    ]
    natural, rrm, cached, free, sat = report.costs
    for cost in report.costs:
        assert len(cost.seconds) == 3
        assert cost.parts["student forward"] > 0
        assert cost.parts["backward"] > 0
        assert cost.peak_bytes > 0
    assert "teacher" in rrm.parts
    assert "teacher" not in natural.parts
    assert "attack" in sat.parts
    assert sat.parts["attack"] > sat.parts["backward"]
    assert sat.median > 3 * natural.median
    assert rrm.peak_bytes > cached.peak_bytes >= natural.peak_bytes
    assert cached.parts["teacher"] < rrm.parts["teacher"]
    assert free.replays == 8
    assert report.ratio(natural) == 1
    document = report.to_json()
    assert document["schema"] == 1
    promised = {"name", "cached", "step_ms", "step_ms_spread", "images_per_s", "peak_mb", "ratio_to_natural"}
    assert all(promised <= entry.keys() for entry in document["objectives"])
    counted = [entry["passes_per_step"] for entry in document["objectives"]]
    assert counted[0] == counted[2] == 1
    assert counted[1] == pytest.approx(1 + 1 / 3, abs=0.05)  # the teacher is the student's own architecture
    assert counted[3] == pytest.approx(1, abs=0.05)
    assert counted[4] > 4
    assert document["recipe"]["passes"]["per_image"] == counted[1]
    assert document["recipe"]["pgd_at_passes"]["epochs"] == document["recipe"]["epochs"] == 2
    assert document["recipe"]["teacher"] == Spent().to_json()
    own, *others = document["numerics"]
    assert (own["precision"], own["channels_last"], own["ratio_to_chosen"]) == ("float32", False, 1.0)
    assert {(other["precision"], other["channels_last"]) for other in others} == {
        ("float32", True), ("bf16", False), ("bf16", True)
    }  # fmt: skip
    assert all(other["step_ms"] > 0 for other in others)
    (line,) = choice_lines(report)
    assert line.startswith("a step of rrm in float32, contiguous: ")
    assert "bf16, channels_last" in line


def test_the_recipes_own_objective_keeps_its_arguments(tiny_teacher: Path, tiny_data: Path) -> None:
    recipe = _recipe(tiny_teacher, tiny_data, "objective={name: pgd-at, steps: 2}")
    report = bench(recipe, objectives=["rrm", "pgd-at"], steps=1)
    assert [cost.name for cost in report.costs] == ["natural", "rrm", "rrm", "pgd-at"]
    assert report.recipe.objective.arguments["steps"] == 2


def test_without_a_teacher_its_objectives_are_left_out_or_refused(tiny_data: Path) -> None:
    recipe = _recipe(None, tiny_data, "objective.name=natural")
    report = bench(recipe, steps=1)
    assert [cost.name for cost in report.costs] == ["natural", "free-at", "pgd-at"]
    with pytest.raises(UserError, match="'rrm' needs a teacher"):
        bench(recipe, objectives=["rrm"], steps=1)


def test_an_unknown_objective_is_refused(tiny_data: Path) -> None:
    with pytest.raises(UserError, match="rrrm"):
        bench(_recipe(None, tiny_data, "objective.name=natural"), objectives=["rrrm"], steps=1)


def _cost(name: str, milliseconds: list[float], *, replays: int = 1) -> Cost:
    return Cost(
        name, False, replays, [value / 1e3 for value in milliseconds], images=100, peak_bytes=0, parts={},
        passes=Passes(48, 11.0 if name == "pgd-at" else 1.0 * replays),
    )  # fmt: skip


OWN = Passes(48, 1.5, before=6.0)


def test_arithmetic_of_a_report() -> None:
    train = {"epochs": 48, "global_batch_size": 100}
    content = {"student": {"name": "a"}, "control": {"epochs": 24}, "train": train}
    recipe = tiny.resolved(content)
    costs = [
        _cost("natural", [10, 10, 90]),
        _cost("rrm", [12, 12, 12]),
        _cost("pgd-at", [120, 110, 100]),
        _cost("free-at", [10], replays=4),
    ]
    report = CostReport(recipe, "cpu", 1, 500, 0.001, False, costs, OWN)
    with_cache = tiny.resolved({**content, "teacher": {"name": "t", "cache": {"views": 8}}})
    cached = [
        costs[0],
        replace(costs[1], parts={"teacher": 0.002}),
        replace(costs[0], name="rrm", cached=True),
    ]
    stored = CostReport(with_cache, "cpu", 1, 500, 0.001, False, cached, OWN)
    assert stored.train_seconds == pytest.approx(48 * 500 * 0.010 + 8 * 500 * 0.002)
    assert report.ratio(costs[1]) == pytest.approx(1.2)
    assert costs[0].spread == pytest.approx(0.04)
    assert costs[3].images_per_second == pytest.approx(2500)
    assert report.train_seconds == pytest.approx(48 * 500 * 0.012)
    assert report.control_seconds == pytest.approx(24 * 500 * 0.010)
    assert costs[3].passes_per_step == 1
    first, *_ = estimate_lines(report)
    assert first == (
        "training this recipe (rrm): 78.0 passes (1.62 × 48 epochs); "
        "pgd-at for as many epochs: 528.0 (11.00 × 48 epochs); the control: 24.0"
    )
    assert not report.data_is_bottleneck
    assert CostReport(recipe, "cpu", 1, 500, 0.02, True, costs, OWN).data_is_bottleneck
    unmeasured = CostReport(recipe, "cpu", 1, 500, 0.02, False, costs[:1], OWN).to_json()
    assert unmeasured["recipe"]["train_hours"] is None
    assert unmeasured["recipe"]["passes"]["total"] == 78
    assert unmeasured["recipe"]["pgd_at_passes"] is None


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        (Spent(Passes(20, 3.0), 480.0, "a GPU"), "60.0 passes of its own network, 8 min 0 s on a GPU"),
        (Spent(seconds=480.0), "8 min 0 s"),
        (Spent(), "not known"),
    ],
)
def test_the_teachers_own_training_has_its_line(spent: Spent, words: str) -> None:
    recipe = tiny.resolved({"student": {"name": "a"}, "teacher": {"name": "t"}, "train": {"epochs": 1}})
    report = CostReport(recipe, "cpu", 1, 500, 0.001, False, [_cost("natural", [10])], OWN, spent)
    assert f"the teacher's own training: {words}" in estimate_lines(report)


def test_images_that_are_made_first_are_not_left_out_of_an_estimate() -> None:
    content = {"student": {"name": "a"}, "teacher": {"name": "t"}, "objective": {"name": "rdt"}}
    costs = [_cost("natural", [10]), _cost("rdt", [10]), _cost("pgd-at", [100])]
    report = CostReport(tiny.resolved(content, ["train.epochs=1"]), "cpu", 1, 500, 0.001, False, costs, OWN)
    assert report.train_seconds is None
    passes, time = estimate_lines(report)
    assert "rdt): 78.0 passes" in passes
    assert "not estimated" in time


def test_an_estimate_says_that_a_later_attack_is_not_in_it() -> None:
    content = {"student": {"name": "a"}, "teacher": {"name": "t"}, "train": {"epochs": 1}}
    costs = [_cost("natural", [10]), _cost("kd-adv", [10])]
    for objective, later in (({"name": "kd-adv", "begin": 0.9}, True), ({"name": "kd-adv"}, False)):
        recipe = tiny.resolved({**content, "objective": objective})
        _, line = estimate_lines(CostReport(recipe, "cpu", 1, 500, 0.001, False, costs, OWN))
        assert ("objective.begin=0.9" in line) == later


def test_peak_memory_is_what_is_held_at_once() -> None:
    kept: list[torch.Tensor] = []

    def step() -> None:
        kept.append(torch.ones(ONE_MB))
        for _ in range(5):
            torch.ones(4 * ONE_MB)

    assert peak_bytes(step, torch.device("cpu")) == pytest.approx(5 * 2**20, rel=0.01)


def test_resident_memory_counts_shared_tensors_once() -> None:
    layer = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    assert resident_bytes([layer, layer, None], optimizer) == 400
    layer(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    assert resident_bytes([layer], optimizer) == 800


def test_what_a_part_contains_belongs_to_it() -> None:
    stopwatch = Stopwatch(lambda: None)
    with stopwatch("attack"), stopwatch("student forward"):
        sum(range(1000))
    with stopwatch("backward"):
        pass
    assert stopwatch.seconds.keys() == {"attack", "backward"}


def test_a_preview_tells_shapes_and_costs_and_writes_nothing(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = preview(_recipe(tiny_teacher, tiny_data, "objective.name=rrm"), steps=1)
    assert list(tmp_path.iterdir()) == []
    document = found.to_json()
    assert document["recipe"]["train"]["lr"] == 0.02
    assert document["data"]["input"] == [1, 32, 32]
    assert document["data"]["steps_per_epoch"] == 4
    assert document["student"]["projection"] is None
    assert document["student"]["width"] == document["teacher"]["width"] == 96
    assert document["student"]["parameters"] > 100_000
    assert document["cost"]["recipe"]["train_hours"] > 0
    assert (
        document["cost"]["recipe"]["passes"] == tiny.PASSES
    )  # as a run counts them: tests/test_end_to_end.py
    assert {entry["name"] for entry in document["cost"]["objectives"]} == {"natural", "rrm", "pgd-at"}


@pytest.mark.parametrize("look", [bench, preview])
def test_a_set_smaller_than_a_batch_is_told(look: Callable[[Recipe], object], tiny_data: Path) -> None:
    with pytest.raises(UserError, match="fewer training images than one global batch"):
        look(_recipe(None, tiny_data, "objective.name=natural", "train.global_batch_size=500"))
