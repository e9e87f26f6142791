"""The table of defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rrm_transfer.core.errors import RecipeError
from rrm_transfer.core.kinds import Kind
from rrm_transfer.recipe.defaults import (
    DEFAULTS,
    Numerics,
    TrainingDefaults,
    check_together,
    fill_in,
    training_defaults,
)
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.schema import AUTO, AugmentationSection, Recipe


def filled(recipe: Recipe, row: TrainingDefaults) -> Recipe:
    return fill_in(recipe, row, Numerics("float32", channels_last=False))


@pytest.mark.parametrize(
    "null", ["train.epochs", "train.lr", "data.augmentation", "threat.eps", "train.precision"]
)
def test_null_is_never_a_word_for_what_is_chosen(null: str) -> None:
    with pytest.raises(RecipeError, match="`auto` leaves it to be chosen"):
        build_recipe({"student": {"name": "a"}}, [f"{null}=null"])


@pytest.mark.parametrize("off", ["train.clip_grad", "train.select_every", "data.label_map"])
def test_null_switches_off(off: str) -> None:
    section, name = off.split(".")
    recipe = build_recipe({"student": {"name": "a"}}, [f"{off}=null", "data.held_out=0.1"])
    assert getattr(getattr(filled(recipe, training_defaults("transformer", 32)), section), name) is None


def test_nothing_writes_into_a_recipe() -> None:
    recipe = build_recipe({"student": {"name": "a"}})
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.lr = 1.0
    assert recipe.train.changed(lr="1/4").lr == 0.25
    with pytest.raises(ValidationError):
        recipe.train.changed(lr=-1)


@pytest.mark.parametrize(
    ("kind", "size", "optimizer", "lr"),
    [
        ("convolutional", 32, "momentum", 0.1),
        ("convolutional", 64, "momentum", 0.1),
        ("convolutional", 65, "momentum", 0.1),
        ("transformer", 32, "adamw", 1e-3),
        ("transformer", 224, "adamw", 5e-4),
    ],
)
def test_rows_by_kind_and_size(kind: Kind, size: int, optimizer: str, lr: float) -> None:
    row = training_defaults(kind, size)
    assert (row.optimizer, row.lr) == (optimizer, lr)
    assert row is DEFAULTS[kind, "small" if size <= 64 else "large"]


def _documented(kind: str, size: str, row: TrainingDefaults) -> str:
    change = row.augmentation
    steps = f"steps at {', '.join(map(str, row.milestones))}"
    schedule = [row.schedule if row.schedule == "cosine" else steps]
    schedule += [f"warm-up {row.warmup_epochs:g}"] if row.warmup_epochs else []
    augmentation = [f"crop {change.crop_padding}"] if change.crop_padding else []
    augmentation += ["random resized crop"] if change.random_resized_crop else []
    augmentation += ["flip"] if change.flip else []
    for name in ("jitter", "lighting"):
        augmentation += [f"{name} {value:g}"] if (value := getattr(change, name)) else []
    cells = [
        kind, size, row.epochs, row.global_batch_size,
        row.optimizer, f"{row.lr:g}", f"{row.weight_decay:g}", ", ".join(schedule), ", ".join(augmentation),
        row.source,
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def test_the_table_in_the_docs_is_this_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "training.md").read_text()
    rows = [_documented(kind, size, row) for (kind, size), row in DEFAULTS.items()]
    assert "\n".join(rows) in page


def test_a_schedule_in_steps_needs_to_know_where() -> None:
    row = training_defaults("convolutional", 32)
    recipe = build_recipe({"student": {"name": "test_resnet"}}, ["train.schedule=multistep"])
    with pytest.raises(RecipeError, match=r"train\.milestones: is required with multistep"):
        filled(recipe, row)
    recipe = recipe.changed(train=recipe.train.changed(milestones=[10]))
    assert filled(recipe, row).train.milestones == (10,)


def test_transformers_warm_up() -> None:
    assert all((row.warmup_epochs > 0) == (kind == "transformer") for (kind, _), row in DEFAULTS.items())


@pytest.mark.parametrize("key", DEFAULTS)
def test_nothing_is_left_open(key: tuple[Kind, str]) -> None:
    row = DEFAULTS[key]  # type: ignore[index]
    before = build_recipe({"student": {"name": "a"}})
    recipe = filled(before, row)
    assert recipe.train.epochs == row.epochs
    assert recipe.control.epochs == row.epochs
    assert recipe.data.augmentation == row.augmentation
    values = recipe.train.model_dump()
    assert AUTO not in values.values()
    absent = {name for name, value in values.items() if value is None}
    assert absent <= {"clip_grad", "ema", "average_epochs", "select_every"}
    assert before.train.epochs == AUTO


def test_what_was_given_stays() -> None:
    given = ["train.epochs=3", "train.lr=0.5", "train.precision=float32", "control.epochs=1"]
    recipe = build_recipe({"student": {"name": "a"}}, [*given, "data.augmentation={}"])
    found = filled(recipe, training_defaults("convolutional", 32))
    assert (found.train.epochs, found.train.lr, found.train.precision) == (3, 0.5, "float32")
    assert found.control.epochs == 1
    assert found.data.augmentation == AugmentationSection()


def test_what_is_held_out_is_for_selection() -> None:
    for overrides, every in (
        ([], None),
        (["data.held_out=0.1"], 1),
        (["data.held_out=0.1", "train.select_every=5"], 5),
        (["data.held_out=0.1", "train.select_every=null"], None),
    ):
        recipe = build_recipe({"student": {"name": "a"}}, overrides)
        found = filled(recipe, training_defaults("convolutional", 32))
        assert found.train.select_every == every


def test_what_does_not_go_together_is_told_together() -> None:
    given = ["train.ema=0.99", "train.average_epochs=4", "train.epochs=3", "train.select_every=1"]
    recipe = build_recipe({"student": {"name": "a"}}, given)
    with pytest.raises(RecipeError) as caught:
        check_together(recipe)
    assert [path for path, _ in caught.value.problems] == [
        "train.average_epochs",
        "train.average_epochs",
        "train.select_every",
    ]
    assert "data.held_out=0.05" in str(caught.value)
    recipe = build_recipe(
        {"student": {"name": "a"}}, ["train.attack_mode=training", "train.gradient_checkpointing=true"]
    )
    with pytest.raises(RecipeError, match=r"train\.attack_mode: is evaluation with"):
        check_together(recipe)


def test_another_optimizer_brings_its_own_learning_rate() -> None:
    recipe = build_recipe({"student": {"name": "a"}}, ["train.optimizer=adamw"])
    found = filled(recipe, training_defaults("convolutional", 32))
    assert found.train.lr == 1e-3


def test_an_optimizer_without_a_row_needs_its_learning_rate() -> None:
    row = training_defaults("convolutional", 32)
    with pytest.raises(RecipeError, match=r"train\.lr: is required with adam; .* momentum, adamw"):
        filled(build_recipe({"student": {"name": "a"}}, ["train.optimizer=adam"]), row)
    given = build_recipe({"student": {"name": "a"}}, ["train.optimizer=adam", "train.lr=1e-3"])
    assert filled(given, row).train.lr == 1e-3


def test_a_shorter_training_still_decays_and_leaves_its_warm_up() -> None:
    recipe = build_recipe({"student": {"name": "a"}}, ["train.epochs=6"])
    large = filled(recipe, training_defaults("convolutional", 224)).train
    assert large.milestones == (4, 5)
    transformer = filled(recipe, training_defaults("transformer", 32)).train
    assert transformer.warmup_epochs == pytest.approx(0.3)
