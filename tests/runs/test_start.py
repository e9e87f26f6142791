"""Where a student starts, and what is solved before its first step."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.runs.finished import read_finished
from rrm_transfer.runs.resolve import resolve
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runs.start import begin
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.loading import load_student
from rrm_transfer.students.saving import save_student
from rrm_transfer.students.student import Student
from tests.support import tiny
from tests.support.command import Moment, command

Resolve = Callable[..., Setup]
UPDATE = "rrm_transfer.training.updating:Updater.update"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean network of another family than the teacher, as a folder."""
    folder = tmp_path_factory.mktemp("own") / "clean"
    images, _ = tiny.quarters(8, 2)
    sample = torch.nn.functional.pad(torch.from_numpy(images)[:, None] / 255, (2,) * 4)
    save_student(tiny.trained("test_efficientnet", steps=10), folder, sample=sample)
    return folder


@pytest.fixture
def resolved(tiny_teacher: Path, tiny_data: Path) -> Resolve:
    def resolve_with(*overrides: str, student: str = "test_resnet", said: StringIO | None = None) -> Setup:
        content: dict[str, Any] = {
            "teacher": {"name": str(tiny_teacher), "check": False},
            "student": {"name": student},
            "data": {"name": str(tiny_data)},
        }
        narrator = Narrator(Console(file=said or StringIO(), width=500))
        recipe = build_recipe(content, [*tiny.settings(epochs=1), "train.lr=auto", *overrides])
        return resolve(recipe, Context.begin(narrator))

    return resolve_with


def _images(setup: Setup) -> Tensor:
    data = setup.loaded
    batch = next(iter(evaluation_batches(data.images.train, fit=data.fit, batch_size=64, device="cpu")))
    return batch.x


@pytest.mark.parametrize(
    ("overrides", "start", "head", "lr"),
    [
        ([], "scratch", "teacher", 0.1),
        (["objective.distance=relative_l2"], "scratch", "own", 0.1),
        (["objective.ce_weight=0"], "scratch", "teacher", 0.1),
        (["objective.name=pgd-at"], "scratch", "own", 0.1),
        (["student.weights=OWN"], "pretrained", "ridge", 0.01),
        (["student.weights=OWN", "student.head=own"], "pretrained", "own", 0.01),
        (["student.weights=OWN", "objective.name=pgd-at"], "pretrained", "own", 0.01),
    ],
)
def test_what_is_left_open_follows_from_weights_and_objective(
    overrides: list[str], start: str, head: str, lr: float, own: Path, resolved: Resolve
) -> None:
    given = [text.replace("OWN", str(own)) for text in overrides]
    setup = resolved(*given, student="test_efficientnet")
    student = setup.recipe.student
    assert (student.start, student.head, setup.recipe.train.lr) == (start, head, lr)


@pytest.mark.parametrize("weight", [0, 0.005])
def test_the_teachers_labels_leave_the_start_as_it_is(
    weight: float, resolved: Resolve, tmp_path: Path
) -> None:
    images, labels = tiny.quarters(8, 3)
    np.savez(tmp_path / "more.npz", image=images, label=labels)
    extra = [f"data.extra={tmp_path / 'more.npz'}", "data.extra_labels=teacher"]
    assert resolved(f"objective.ce_weight={weight}", *extra).recipe.student.head == "teacher"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.start=scratch", "student.weights=w.pt"], "student.weights: goes without"),
        (["student.start=teacher", "student.weights=w.pt"], "student.weights: goes without"),
        (["student.start=teacher", "objective.name=natural"], "has no teacher"),
        (["student.head=ridge", "objective.name=natural"], "none"),
        (["objective={name: kd-adv, anchor: start, anchor_weight: 1}"], "untrained network is no anchor"),
        (
            ["objective={name: kd-adv, anchor: fashion_mnist_linf, anchor_weight: 1}"],
            "10 classes of fashion_mnist_linf",
        ),
        (["student.head=ridge"], "representation that was learned"),
        (["student.head=own", "objective.ce_weight=0"], "keeps the teacher's classifier"),
        (["student.start=teacher", "student.name=test_efficientnet"], "do not fit"),
        (["student.start=warm"], "student.start"),
    ],
)
def test_what_cannot_be_had_is_told(overrides: list[str], message: str, resolved: Resolve) -> None:
    with pytest.raises((UserError, RecipeError), match=message):
        resolved(*overrides).build_student()


def test_an_anchor_that_says_too_little_is_not_answered_with_options_of_the_teacher(
    own: Path, resolved: Resolve, tmp_path: Path
) -> None:
    file = tmp_path / "clean.safetensors"
    file.write_bytes((own / "model.safetensors").read_bytes())
    with pytest.raises(UserError) as refused:
        resolved(f"objective={{name: kd-adv, anchor: {file}, anchor_weight: 1}}")
    assert refused.value.hint == "an anchor is a name or a folder that says so itself, such as a run's"


def test_a_solved_projection_makes_a_working_classifier(own: Path, resolved: Resolve) -> None:
    said = StringIO()
    setup = resolved(f"student.weights={own}", student="test_efficientnet", said=said)
    student = setup.build_student()
    assert isinstance(student, Student)
    assert setup.teacher is not None
    before = {name: value.clone() for name, value in student.state_dict().items()}
    found = begin(student, setup)
    assert found["images"] == tiny.TRAIN
    assert found["explained"] > 0.5
    assert "projection solved on 64 training images" in said.getvalue()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {"head.projection.weight", "head.projection.bias"}
    assert student.training
    x = _images(setup)
    with torch.no_grad():
        outputs, target = student.eval()(x), setup.teacher(x)
    assert (outputs.features - target.features).norm() < 0.5 * target.features.norm()
    assert (outputs.logits.argmax(1) == target.logits.argmax(1)).float().mean() > 0.9

    again = setup.build_student()
    assert begin(again, setup) | {"seconds": 0} == found | {"seconds": 0}
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))
    images = len(setup.loaded.images.train)
    plain = replace(setup, recipe=setup.recipe.changed(student=setup.recipe.student.changed(head="own")))
    counted, without = (s.passes(again, s.objective, 1).before for s in (setup, plain))
    assert setup.solved_images == images
    assert counted > without == 0


def test_a_student_may_start_as_the_teacher_and_its_control_does_not(resolved: Resolve) -> None:
    said = StringIO()
    setup = resolved("student.start=teacher", said=said)
    student, control = setup.build_student(), setup.build_control()
    assert begin(student, setup) == {}
    assert "starts as the teacher, with the same answers" in said.getvalue()
    assert setup.teacher is not None
    x = _images(setup)
    torch.testing.assert_close(student.eval()(x).logits, setup.teacher(x).logits)
    assert not torch.allclose(control.eval()(x).logits, setup.teacher(x).logits)

    other = resolved("student.start=teacher", "student.args={output_stride: 16}", said=said)
    begin(other.build_student(), other)
    assert "answers otherwise" in said.getvalue()


def test_a_run_from_ones_own_network_says_where_it_started(
    own: Path, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = tiny.recipe_options(tiny_teacher, tiny_data, student="test_efficientnet", epochs=1)
    options += ["--student-weights", str(own), "--skip-teacher-check", "--json", "--output", "run"]
    # Killed in the middle of the student: what is solved before its first step is solved once.
    killed = command("run", *options, folder=tmp_path, moment=Moment(UPDATE, 7))
    assert (killed.code, "projection solved" in killed.err) == (-signal.SIGKILL, True)
    ended = command("run", *options, "--resume", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert "from the weights of" in ended.err
    assert "student: resumed at step" in ended.err
    assert "projection solved" not in ended.err
    run = read_finished(tmp_path / "run")
    start = run.provenance.start
    assert start is not None
    assert (start.origin, start.weights, start.head) == ("pretrained", "clean", "ridge")
    for name in ("README.md", "report.html"):
        text = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert "from the weights of clean" in text
        assert str(own) not in text
    control = json.loads((tmp_path / "run" / "control" / "config.json").read_text())["rrm"]["start"]
    assert control == {"origin": "pretrained", "weights": "clean", "head": "own"}
    timing = run.metrics.timing["student"]
    assert timing["head"]["images"] == tiny.TRAIN
    assert timing["passes"]["before"] > 0
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [event["explained"] for event in events if event["event"] == "head"] == [
        timing["head"]["explained"]
    ]
    assert load_student(tmp_path / "run").architecture == "test_efficientnet"


def test_an_anchor_is_the_student_as_it_began_and_part_of_the_runs_identity(
    own: Path, tiny_teacher: Path, resolved: Resolve
) -> None:
    drawn = "objective={name: rrm-adv, anchor: start, anchor_weight: 1}"
    setup = resolved(f"student.weights={own}", drawn, student="test_efficientnet")
    student = setup.build_student()
    assert isinstance(student, Student)
    begin(student, setup)
    anchor = setup.anchor_beside(student, setup.objective)
    assert anchor is not None
    assert not anchor.training
    assert not any(parameter.requires_grad for parameter in anchor.parameters())
    x = _images(setup)
    with torch.no_grad():
        torch.testing.assert_close(anchor(x).logits, student.eval()(x).logits)
        student.head.classifier.weight.zero_()
        assert not torch.allclose(anchor(x).logits, student(x).logits)

    other = resolved(
        f"student.weights={own}", drawn.replace("start", str(tiny_teacher)), student="test_efficientnet"
    )
    assert other.anchor_beside(other.build_student(), other.objective) is other.anchor
    assert other.anchor is not None
    assert len({setup.identity["anchor"], other.identity["anchor"]}) == 2
    assert "anchor" not in resolved().identity


@pytest.mark.slow
def test_a_killed_run_with_an_anchor_goes_on_exactly(
    own: Path, tiny_teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = tiny.recipe_options(tiny_teacher, tiny_data, student="test_efficientnet", epochs=1)
    options += [
        "--student-weights",
        str(own),
        "--skip-teacher-check",
        "--no-control",
        "--objective",
        "rrm-adv",
    ]
    options += ["--set", "objective.anchor=start", "--set", "objective.anchor_weight=0.5"]
    assert command("run", *options, "--output", "whole", folder=tmp_path).code == 0
    parts = [*options, "--output", "parts"]
    assert command("run", *parts, folder=tmp_path, moment=Moment(UPDATE, 3)).code == -signal.SIGKILL
    ended = command("run", *parts, "--resume", folder=tmp_path)
    assert (ended.code, "student: resumed at step" in ended.err) == (0, True)
    whole, again = (
        load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    log = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "head" for line in log) == 1
