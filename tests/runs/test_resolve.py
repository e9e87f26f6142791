"""A recipe is resolved once: what it leaves open becomes a value, and nothing writes into it afterwards."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.recipe.loading import build_recipe, dump_recipe, read_recipe
from rrm_transfer.recipe.schema import AUTO, ObjectiveSection, Recipe
from rrm_transfer.runs import trainables
from rrm_transfer.runs.resolve import _with_cache, check_names, resolve, with_objective
from rrm_transfer.runs.run import run
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.processes import Runtime
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.students.student import Student, StudentPlan
from tests.support import tiny


def _recipe(teacher: Path | str, data: Path, *overrides: str, student: str = "test_resnet") -> Recipe:
    content = {
        "teacher": {"name": str(teacher), "check": False},
        "student": {"name": student},
        "data": {"name": str(data)},
        "control": {"enabled": False},
    }
    return build_recipe(content, [*tiny.settings(epochs=1), *overrides])


OPEN = ("train.precision=auto", "train.channels_last=auto")


@pytest.mark.parametrize("objective", ["rrm", "pgd-at", "natural"])
def test_the_threat_model_is_the_teachers_whether_or_not_it_teaches(objective: str, tiny_data: Path) -> None:
    recipe = _recipe(
        "fashion_mnist_linf",
        tiny_data,
        "teacher.features_only=true",
        f"objective.name={objective}",
        "threat.eps=auto",
    )
    threat = resolve(recipe, Context.begin()).recipe.threat
    assert (threat.norm, threat.eps) == ("Linf", 0.1)


def test_nothing_is_left_open_and_the_given_recipe_stays(tiny_teacher: Path, tiny_data: Path) -> None:
    recipe = build_recipe(
        {"teacher": {"name": str(tiny_teacher)}, "student": {"name": "test_resnet"}},
        [f"data.name={tiny_data}", "train.global_batch_size=16", "teacher.cache.views=2"],
    )
    before = dump_recipe(recipe)
    setup = resolve(recipe, Context.begin())
    assert dump_recipe(recipe) == before
    text = dump_recipe(setup.recipe)
    assert [line for line in text.splitlines() if AUTO in line] == ["  projection: auto"]
    assert setup.recipe.student.name == "test_resnet"
    assert setup.recipe.evaluate.eps == (setup.threat.eps,)
    with pytest.raises(ValidationError):
        setup.recipe.train.epochs = 3


def test_what_a_run_recorded_resolves_to_itself(tiny_teacher: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = resolve(_recipe(tiny_teacher, tiny_data, *OPEN, student="test_vit"), Context.begin()).recipe
    (tmp_path / "recipe.yaml").write_text(dump_recipe(first), encoding="utf-8")
    again = resolve(read_recipe(str(tmp_path / "recipe.yaml")), Context.begin()).recipe
    assert dump_recipe(again) == dump_recipe(first)


def test_no_weights_are_made_before_the_student_is_built(
    tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int | None] = []
    build = StudentPlan.build

    def watched(plan: StudentPlan, width: int | None = None) -> Student:
        built.append(width)
        return build(plan, width)

    monkeypatch.setattr(StudentPlan, "build", watched)
    setup = resolve(_recipe(tiny_teacher, tiny_data), Context.begin())
    assert built == []
    assert all(p.is_meta for p in setup.student.outline(7).parameters())
    setup.build_student()
    assert built == [96]


@pytest.mark.parametrize(
    ("given", "clipped"), [([], 1.0), (["train.clip_grad=null"], None), (["train.clip_grad=0.5"], 0.5)]
)
def test_a_transformers_clipping_can_be_switched_off(
    given: list[str], clipped: float | None, tiny_teacher: Path, tiny_data: Path
) -> None:
    setup = resolve(_recipe(tiny_teacher, tiny_data, *given, student="test_vit"), Context.begin())
    assert setup.recipe.train.clip_grad == clipped
    assert setup.plan("student", 1).clip_grad == clipped


def test_selection_can_be_switched_off_where_a_part_is_held_out(tiny_teacher: Path, tiny_data: Path) -> None:
    given = ["data.held_out=0.25", "train.select_every=null"]
    assert (
        resolve(_recipe(tiny_teacher, tiny_data, *given), Context.begin()).recipe.train.select_every is None
    )


@pytest.mark.parametrize(
    ("student", "has_bf16", "chosen"),
    [
        ("test_resnet", False, ("float32", True)),
        ("test_vit", False, ("float32", False)),
        ("test_resnet", True, ("bf16", True)),
        ("test_vit", True, ("bf16", False)),
    ],
)
def test_precision_and_format_follow_from_device_and_network(
    student: str,
    has_bf16: bool,
    chosen: tuple[str, bool],
    tiny_teacher: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Runtime, "has_bf16", has_bf16)
    said = StringIO()
    context = Context.begin(Narrator(Console(file=said, width=500)))
    train = resolve(_recipe(tiny_teacher, tiny_data, *OPEN, student=student), context).recipe.train
    assert (train.precision, train.channels_last) == chosen
    assert f"{chosen[0]}, {'channels_last' if chosen[1] else 'contiguous'}; threat" in said.getvalue()


def test_a_resumed_run_stays_what_it_was_on_another_machine(
    tiny_teacher: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise Interrupted("enough")

    recipe = _recipe(tiny_teacher, tiny_data, *OPEN, f"output={tmp_path / 'run'}")
    monkeypatch.setattr(Runtime, "decoding_workers", 5)
    with pytest.raises(Interrupted, match="enough"):
        run(recipe, publish=interrupted)
    monkeypatch.setattr(Runtime, "decoding_workers", 9)
    monkeypatch.setattr(Runtime, "has_bf16", True)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    result = run(recipe, publish=lambda _: None, resume=True)
    train = result.recipe.train
    assert (train.precision, train.channels_last, train.compile) == ("float32", True, False)
    assert result.recipe.data.workers == 5
    given = resolve(
        _recipe(tiny_teacher, tiny_data, "train.precision=bf16"), Context.begin(), recorded=result.recipe
    )
    assert given.recipe.train.precision == "bf16"


def test_another_objective_takes_what_it_needs(tiny_teacher: Path, tiny_data: Path) -> None:
    setup = resolve(_recipe(tiny_teacher, tiny_data), Context.begin())
    plain = with_objective(setup, ObjectiveSection(name="natural"))
    assert (plain.teacher, plain.objective.needs) == (None, frozenset())
    assert with_objective(setup, ObjectiveSection(name="kd")).teacher is setup.teacher
    with pytest.raises(UserError, match="needs a teacher"):
        with_objective(plain, ObjectiveSection(name="kd"))


def test_a_network_that_timm_lacks_is_no_student(
    tiny_teacher: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainables, "build_model", None)  # nothing is built to find out
    with pytest.raises(UserError, match="taught from scratch"):
        resolve(_recipe(tiny_teacher, tiny_data, student="cifar_vgg11"), Context.begin())


def _settled(objective: str, arguments: dict[str, Any], **recipe: Any) -> tuple[Any, str]:
    content = {
        "student": {"name": "a"},
        "teacher": {"name": "b", "cache": {"views": 4}},
        "objective": {"name": objective, **arguments},
        "train": {"epochs": 10},
        "seed": 3,
    }
    made, said = build_recipe({**content, **recipe}), StringIO()
    _, minimised = check_names(made.changed(student=made.student.changed(name="test_resnet")))
    made = _with_cache(made, minimised, Narrator(Console(file=said, width=500)))
    assert made.teacher is not None
    return made.teacher.cache, said.getvalue()


def test_what_the_recipe_leaves_open_is_filled_in() -> None:
    cache, said = _settled("rrm", {}, data={"augmentation": {"flip": True}})
    assert (cache.views, cache.seed, cache.dtype, said) == (4, 3, "float16", "")
    cache, _ = _settled("rrm", {}, data={"augmentation": {}})
    assert cache.views == 1
    assert "save this run nothing" in _settled("rrm", {}, train={"epochs": 4})[1]
    assert "done live" in _settled("iad", {})[1]


@pytest.mark.parametrize(("objective", "arguments"), [("rrm", {"mixup": 0.2}), ("adaad", {}), ("igdm", {})])
def test_objectives_that_a_cache_cannot_serve_do_without_it(
    objective: str, arguments: dict[str, Any]
) -> None:
    cache, said = _settled(objective, arguments)
    assert cache is None
    assert "never asks" in said


def _said(recipe: Recipe) -> str:
    stream = StringIO()
    resolve(recipe, Context.begin(Narrator(Console(file=stream, width=500))))
    return stream.getvalue()


def test_a_run_says_what_teacher_and_student_are_and_what_bridges_them(
    tiny_teacher: Path, tiny_data: Path
) -> None:
    said = _said(_recipe(tiny_teacher, tiny_data, student="test_efficientnet"))
    assert "teacher: " in said
    assert " parameters, 96 features" in said
    assert "parameters, 256 features, projected to the teacher's 96 and folded at export" in said
    assert "tensor by tensor" not in said


def test_a_run_says_that_the_teachers_weights_fit_the_student(tiny_teacher: Path, tiny_data: Path) -> None:
    said = _said(_recipe(tiny_teacher, tiny_data, student="test_resnet"))
    assert (
        "the teacher's weights fit this student tensor by tensor: the teacher can be deployed as it is"
        in said
    )


@pytest.mark.parametrize(
    ("objective", "told"),
    [("kd", True), ("free-at", True), ("kd-adv", False), ("pgd-at", False)],
)
def test_a_mode_of_attacks_is_told_where_it_changes_nothing(
    objective: str, told: bool, tiny_teacher: Path, tiny_data: Path
) -> None:
    said = StringIO()
    recipe = _recipe(tiny_teacher, tiny_data, f"objective.name={objective}", "train.attack_mode=training")
    resolve(recipe, Context.begin(Narrator(Console(file=said, width=500))))
    assert (f"attack_mode=training has no effect: {objective}" in said.getvalue()) is told
    assert "1 epoch of batches" in said.getvalue()


def test_a_student_in_parts_selects_nothing_unless_it_is_asked_to(
    tiny_teacher: Path, tiny_data: Path
) -> None:
    said = StringIO()
    context = Context.begin(Narrator(Console(file=said, width=500)))
    recipe = _recipe(tiny_teacher, tiny_data, "data.held_out=0.25")
    assert resolve(recipe, context).recipe.train.select_every == 1
    assert "no weights are selected" not in said.getvalue()
    context.runtime.sharding = True
    train = resolve(recipe, context).recipe.train
    assert (train.select_every, train.ema) == (None, None)
    assert "no weights are selected" in said.getvalue()
    with pytest.raises(UserError, match=r"train\.select_every=null"):
        context.runtime.check_whole()
