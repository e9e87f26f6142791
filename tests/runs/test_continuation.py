"""What may change while a run goes on, and what makes it another one."""

from __future__ import annotations

import pytest
import yaml

from rrm_transfer.core.errors import UserError
from rrm_transfer.recipe.loading import build_recipe, dump_recipe
from rrm_transfer.runs.continuation import CONTINUABLE, Change, find_changes, require_same

RECIPE = build_recipe({"student": {"name": "a"}, "teacher": {"name": "b"}})


def _changes(**overrides: object) -> list[Change]:
    sets = [f"{path.replace('__', '.')}={value}" for path, value in overrides.items()]
    changed = build_recipe(RECIPE.model_dump(exclude_unset=True), sets)
    return find_changes(dump_recipe(RECIPE), dump_recipe(changed))


def test_equal_recipes_have_no_changes_wherever_they_are_written() -> None:
    assert _changes(output="elsewhere") == []


def test_changes_are_named_by_their_paths() -> None:
    assert _changes(train__lr=0.5, evaluate__eps="[8/255]", seed=3) == [
        Change("evaluate.eps", "auto", [8 / 255]),
        Change("seed", 0, 3),
        Change("train.lr", "auto", 0.5),
    ]


@pytest.mark.parametrize(
    "path",
    [
        *("train.lr", "train.log_every", "train.gradient_checkpointing", "train.compile"),
        *("evaluate.steps", "processes", "data.workers"),
    ],
)
def test_a_run_goes_on_with_some_changes_when_told_to(path: str) -> None:
    changes = [Change(path, 1, 2)]
    require_same(changes, anyway=True, where="here")
    with pytest.raises(UserError, match=f"{path}: was 1, is now 2") as caught:
        require_same(changes, anyway=False, where="here")
    assert "--resume-anyway" in str(caught.value.hint)


@pytest.mark.parametrize(
    "path",
    ["student.name", "teacher.name", "data.name", "seed", "threat.eps", "objective.name", "train.epochs",
     "train.global_batch_size", "train.optimizer", "control.enabled"],
)  # fmt: skip
def test_others_make_it_another_run(path: str) -> None:
    with pytest.raises(UserError, match=f"{path}: was 1, is now 2") as caught:
        require_same([Change(path, 1, 2), Change("train.lr", 1, 2)], anyway=True, where="here")
    assert "train.lr" not in str(caught.value)
    assert "--resume-anyway" not in str(caught.value.hint)


def test_what_may_change_exists() -> None:
    content = yaml.safe_load(dump_recipe(RECIPE))
    for path in CONTINUABLE - {"processes", "training_images", "test_images", "extra_images"}:
        section, _, key = path.partition(".")
        assert section in content
        assert not key or key in content[section]


def test_a_damaged_recipe_is_told() -> None:
    with pytest.raises(UserError, match="damaged"):
        find_changes("a: [", dump_recipe(RECIPE))
    assert Change("student.name", None, "a") in find_changes("[]", dump_recipe(RECIPE))
