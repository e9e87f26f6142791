"""From words to a recipe."""

from __future__ import annotations

from typing import Any

import pytest

from rrm_transfer.core.errors import RecipeError
from rrm_transfer.recipe.loading import read_recipe
from rrm_transfer.recipe.schema import Recipe
from rrm_transfer.recipe.shelf import QUICKSTART, TEACHING
from rrm_transfer.runs.request import code_named_by, request


def asked(base: str, recipe: str | None = None, **sections: dict[str, Any]) -> Recipe:
    named = None if recipe is None else read_recipe(recipe)
    return request(named, base=base, overrides=[], sections=sections)


def test_without_options_it_is_the_base() -> None:
    assert asked(QUICKSTART, student={"name": None}) == read_recipe(QUICKSTART)


def test_a_named_student_starts_from_an_empty_recipe() -> None:
    recipe = asked(QUICKSTART, student={"name": "test_vit"})
    assert recipe.teacher is not None
    assert (recipe.teacher.name, recipe.student.name) == ("fashion_mnist_linf", "test_vit")
    assert (recipe.train.epochs, recipe.objective.name, recipe.objective.arguments) == ("auto", "rrm", {})


def test_a_student_in_a_recipes_place_starts_as_the_recipe_says() -> None:
    named = "fashion-mnist/balanced"
    recipe = asked(QUICKSTART, named, student={"name": "test_vit"})
    assert (recipe.student.name, recipe.student.args, recipe.student.start) == ("test_vit", {}, "scratch")
    assert recipe.train.epochs == read_recipe(named).train.epochs


def test_weights_of_ones_own_win_over_a_start_from_scratch() -> None:
    given = {"start": "pretrained", "weights": "mine.pt"}
    recipe = asked(QUICKSTART, "fashion-mnist/frontier", student=given)
    assert (recipe.student.start, str(recipe.student.weights)) == ("pretrained", "mine.pt")
    assert recipe.student.args == read_recipe("fashion-mnist/frontier").student.args


def test_a_network_is_taught_by_the_base_objective_with_its_own_defaults() -> None:
    recipe = asked(TEACHING, student={"name": "test_vit"})
    assert (recipe.objective.name, recipe.objective.arguments) == ("pgd-at", {})
    assert recipe.teacher is None


@pytest.mark.parametrize(("name", "kept"), [("kd", False), ("rrm", True)])
def test_another_objective_does_not_get_the_arguments_of_the_recipes(name: str, kept: bool) -> None:
    for recipe in (None, QUICKSTART):
        objective = asked(QUICKSTART, recipe, objective={"name": name}).objective
        assert objective.name == name
        assert bool(objective.arguments) == kept


def test_leave_is_for_the_factory_on_the_command_line_and_no_other() -> None:
    assert code_named_by("tests.support.tiny:trained", None) == {"tests.support.tiny:trained"}
    assert code_named_by("teacher.pt", "tests.support.tiny:trained") == {"tests.support.tiny:trained"}
    assert not code_named_by(
        "hf-hub:user/name", "local-dir:folder", "local_dir:folder", "robust_resnet50", None
    )


def test_problems_of_schema_and_objective_are_told_together() -> None:
    with pytest.raises(RecipeError) as raised:
        request(
            None,
            base=QUICKSTART,
            overrides=["train.epoch=3", "objective.foo=1", "threat.eps=abc"],
            sections={},
        )
    assert {path for path, _ in raised.value.problems} == {"train.epoch", "objective.foo", "threat.eps"}
    with pytest.raises(RecipeError, match="Unknown objective 'rmm'"):
        request(None, base=QUICKSTART, overrides=[], sections={"objective": {"name": "rmm"}})
