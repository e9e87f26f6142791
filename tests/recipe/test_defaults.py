"""The table of defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm_transfer.core.errors import RecipeError
from rrm_transfer.core.kinds import Kind
from rrm_transfer.recipe.defaults import (
    DEFAULTS,
    TrainingDefaults,
    check_together,
    fill_in,
    training_defaults,
)
from rrm_transfer.recipe.loading import build_recipe


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
        kind, size, "pretrained" if row.pretrained else "from scratch", row.epochs, row.global_batch_size,
        row.optimizer, f"{row.lr:g}", f"{row.weight_decay:g}", ", ".join(schedule), ", ".join(augmentation),
        row.source,
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def test_the_table_in_the_docs_is_this_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    rows = [_documented(kind, size, row) for (kind, size), row in DEFAULTS.items()]
    assert "\n".join(rows) in page


def test_a_schedule_in_steps_needs_to_know_where() -> None:
    row = training_defaults("convolutional", 32)
    recipe = build_recipe({"student": {"name": "test_resnet"}}, ["train.schedule=multistep"])
    with pytest.raises(RecipeError, match=r"train\.milestones: is required with multistep"):
        fill_in(recipe, row)
    recipe.train.milestones = [10]
    assert fill_in(recipe, row).train.milestones == [10]


def test_transformers_warm_up() -> None:
    assert all((row.warmup_epochs > 0) == (kind == "transformer") for (kind, _), row in DEFAULTS.items())


@pytest.mark.parametrize("key", DEFAULTS)
def test_nothing_is_left_open(key: tuple[Kind, str]) -> None:
    row = DEFAULTS[key]  # type: ignore[index]
    before = build_recipe({"student": {"name": "a"}})
    recipe = fill_in(before, row)
    assert recipe.train.epochs == row.epochs
    assert recipe.control.epochs == row.epochs
    assert recipe.data.augmentation == row.augmentation
    open_values = {name for name, value in recipe.train.model_dump().items() if value is None}
    measured, absent = {"precision", "channels_last"}, {"clip_grad", "ema", "average_epochs", "select_every"}
    assert open_values <= measured | absent
    assert before.train.epochs is None


def test_what_was_given_stays() -> None:
    given = ["train.epochs=3", "train.lr=0.5", "train.precision=float32", "control.epochs=1"]
    recipe = build_recipe({"student": {"name": "a"}}, [*given, "data.augmentation={}"])
    filled = fill_in(recipe, training_defaults("convolutional", 32))
    assert (filled.train.epochs, filled.train.lr, filled.train.precision) == (3, 0.5, "float32")
    assert filled.control.epochs == 1
    assert filled.data.augmentation is not None
    assert not filled.data.augmentation.flip


def test_what_is_held_out_is_for_selection() -> None:
    for overrides, every in (
        ([], None),
        (["data.held_out=0.1"], 1),
        (["data.held_out=0.1", "train.select_every=5"], 5),
    ):
        recipe = build_recipe({"student": {"name": "a"}}, overrides)
        filled = fill_in(recipe, training_defaults("convolutional", 32))
        assert filled.train.select_every == every


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


def test_another_optimiser_brings_its_own_learning_rate() -> None:
    recipe = build_recipe({"student": {"name": "a"}}, ["train.optimizer=adamw"])
    filled = fill_in(recipe, training_defaults("convolutional", 32))
    assert filled.train.lr == 1e-3


def test_an_optimiser_without_a_row_needs_its_learning_rate() -> None:
    row = training_defaults("convolutional", 32)
    with pytest.raises(RecipeError, match=r"train\.lr: is required with adam; .* momentum, adamw"):
        fill_in(build_recipe({"student": {"name": "a"}}, ["train.optimizer=adam"]), row)
    given = build_recipe({"student": {"name": "a"}}, ["train.optimizer=adam", "train.lr=1e-3"])
    assert fill_in(given, row).train.lr == 1e-3


def test_a_shorter_training_still_decays_and_leaves_its_warm_up() -> None:
    recipe = build_recipe({"student": {"name": "a"}}, ["train.epochs=6"])
    large = fill_in(recipe, training_defaults("convolutional", 224)).train
    assert large.milestones == [4, 5]
    transformer = fill_in(recipe, training_defaults("transformer", 32)).train
    assert transformer.warmup_epochs == pytest.approx(0.3)
