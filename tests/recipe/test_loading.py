"""Recipes: every problem at once, overrides, and the way to YAML and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.recipe.loading import build_recipe, dump_recipe, read_recipe
from rrm_transfer.recipe.shelf import recipe_names, shelf

MINIMAL: dict[str, Any] = {"student": {"name": "resnet18"}}


def problems(content: dict[str, Any], *overrides: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        build_recipe(content, overrides)
    return dict(caught.value.problems)


def test_every_recipe_of_the_shelf_is_valid() -> None:
    files = sorted(shelf().rglob("*.yaml"))
    assert len(files) == len(recipe_names()) >= 2
    for name in recipe_names():
        recipe = read_recipe(name)
        assert recipe.description, name
        text = (shelf() / f"{name}.yaml").read_text(encoding="utf-8")
        for heading in ("rrm-transfer ", "Hardware and time", "Published figures"):
            assert heading in text.partition("description:")[0], f"{name}: the header lacks {heading!r}"


def test_all_problems_are_told_with_their_paths() -> None:
    found = problems(
        {
            "student": {"nam": "a"},
            "train": {"lr": -1, "epochs": "many", "schedule": "cosin"},
            "data": {"augmentation": {"crop": 4}, "held_out": 1},
            "threat": {"eps": "8/0"},
            "seeed": 1,
        }
    )
    assert set(found) == {
        "student.name",
        "student.nam",
        "train.lr",
        "train.epochs",
        "train.schedule",
        "data.augmentation.crop",
        "data.held_out",
        "threat.eps",
        "seeed",
    }
    assert found["student.name"] == "is required"
    assert found["student.nam"] == "unknown key (nearest: name)"
    assert "crop_padding" in found["data.augmentation.crop"]
    assert found["seeed"].startswith("unknown key (nearest: seed")
    assert "received '8/0'" in found["threat.eps"]


@pytest.mark.parametrize(
    ("written", "value"), [("8/255", 8 / 255), ("0.05", 0.05), ("5e-4", 5e-4), (".5", 0.5), ("1", 1.0)]
)
def test_quantities_are_read_and_not_evaluated(written: str, value: float) -> None:
    assert build_recipe(MINIMAL, [f"threat.eps={written}"]).threat.eps == value
    assert build_recipe({**MINIMAL, "threat": {"eps": written}}).threat.eps == value


@pytest.mark.parametrize(
    "written", ["8/", "/255", "8/0", "-1", "1+1", "__import__('os')", "nan", "inf", "true", "0"]
)
def test_other_quantities_are_refused(written: str) -> None:
    assert set(problems(MINIMAL, f"threat.eps={written}")) == {"threat.eps"}


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=3", ("train", "epochs"), 3),
        ("evaluate.eps=[8/255, 0.05]", ("evaluate", "eps"), (8 / 255, 0.05)),
        ("data.augmentation={flip: true}", ("data", "augmentation", "flip"), True),
        ("data.augmentation.flip=true", ("data", "augmentation", "flip"), True),
        ("student.args.output_stride=8", ("student", "args"), {"output_stride": 8}),
        ("train.clip_grad=null", ("train", "clip_grad"), None),
        ("description=a = b", ("description",), "a = b"),
        ("teacher.name=robust", ("teacher", "name"), "robust"),
    ],
)
def test_overrides(override: str, path: tuple[str, ...], value: object) -> None:
    found: Any = build_recipe(MINIMAL, [override])
    for name in path:
        found = getattr(found, name)
    assert found == value


HUGE = ("9" * 4000, "0x" + "f" * 5000, str(10**400), str(2**70))


@pytest.mark.parametrize("number", HUGE, ids=len)
@pytest.mark.parametrize(
    "key", ["seed", "threat.eps", "train.epochs", "objective.ce_weight", "student.args.depth"]
)
def test_numbers_that_nothing_can_hold_are_told(key: str, number: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bits|digits") as caught:
        build_recipe({"student": {"name": "resnet18"}}, [f"{key}={number}"])
    assert len(str(caught.value)) < 2000
    section, _, name = key.partition(".")
    written = f"{section}: {{{name}: {number}}}" if name else f"{section}: {number}"
    (tmp_path / "huge.yaml").write_text(f"student: {{name: resnet18}}\n{written}\n")
    with pytest.raises(UserError, match=r"bits|digits"):
        read_recipe(str(tmp_path / "huge.yaml"))
    content = {section: {name: int(number, 0)} if name else int(number, 0)} if number.isdecimal() else {}
    if len(number) < 4300 and content:
        with pytest.raises(RecipeError, match="bits"):
            build_recipe({"student": {"name": "resnet18"}} | content)


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("seed", 2**63), ("train.epochs", 10**9 + 1), ("data.image_size", 10**6), ("data.workers", 10**5),
        ("data.augmentation.crop_padding", 10**6), ("teacher.cache.views", 2**40),
        ("train.average_epochs", 1), ("evaluate.steps", 2**40),
    ],
)  # fmt: skip
def test_numbers_have_bounds(key: str, number: int) -> None:
    content = {"student": {"name": "resnet18"}, "teacher": {"name": "t"}}
    assert [*problems(content, f"{key}={number}")] == [key]


def test_objective_arguments_pass_through() -> None:
    recipe = build_recipe(MINIMAL, ["objective.name=rrm", "objective.ce_weight=0.1"])
    assert recipe.objective.arguments == {"ce_weight": 0.1}


def test_later_overrides_win_and_the_given_content_stays() -> None:
    content: dict[str, Any] = {"student": {"name": "a"}, "train": {"epochs": 1}}
    assert build_recipe(content, ["train.epochs=2", "train.epochs=3"]).train.epochs == 3
    assert content == {"student": {"name": "a"}, "train": {"epochs": 1}}


@pytest.mark.parametrize(
    "override", ["train.epochs", "=3", ".epochs=3", "train..epochs=3", "seed.of=1", "seed=[1"]
)
def test_what_is_not_an_override(override: str) -> None:
    with pytest.raises(UserError) as caught:
        build_recipe({**MINIMAL, "seed": 0}, [override])
    assert override in str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_a_dumped_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name, ["output=runs/a", "threat.eps=8/255", "data.augmentation.jitter=0.1"])
    file = tmp_path / "other.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert read_recipe(str(file)) == recipe
    assert dump_recipe(read_recipe(str(file))) == dump_recipe(recipe)
    assert yaml.safe_load(dump_recipe(recipe))["threat"]["eps"] == 8 / 255


def test_a_files_name_is_the_recipes_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("student: {name: resnet18}", encoding="utf-8")
    assert read_recipe(str(file)).name == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "is not YAML"), ("- a\n", "does not hold a recipe"), ("", "does not hold a recipe")],
)
def test_files_that_hold_no_recipe(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_recipe(str(file))


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"student: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]", encoding="utf-8")
    with pytest.raises(UserError, match="is not YAML"):
        read_recipe(str(file))
    assert not (tmp_path / "made").exists()


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean quickstart"):
        read_recipe("quikstart")
