"""Runs with images beside the labelled ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrm_transfer.core.errors import RecipeError, UserError
from rrm_transfer.core.files import sha256_of
from rrm_transfer.recipe.loading import build_recipe
from rrm_transfer.recipe.schema import ObjectiveSection, Recipe
from rrm_transfer.runs.resolve import check_names, resolve, with_objective
from rrm_transfer.runs.setup import Setup
from rrm_transfer.runtime.context import Context
from tests.support import tiny
from tests.support.command import Ended, command


def recipe(data: Path, *settings: str, teacher: Path | None) -> Recipe:
    content: dict[str, Any] = {"student": {"name": "test_resnet"}, "data": {"name": str(data)}}
    if teacher is not None:
        content["teacher"] = {"name": str(teacher)}
    return build_recipe(content, [*tiny.settings(), *settings])


def write_images(path: Path, count: int = 40, seed: int = 7) -> Path:
    images, labels = tiny.quarters(count, seed)
    np.savez(path, image=images, label=labels)
    return path


@pytest.mark.parametrize("objective", ["natural", "n-fgsm", "pgd-at", "fast-at", "free-at", "ard", "iad"])
def test_objectives_that_need_labels_refuse_images_without(objective: str, tiny_data: Path) -> None:
    asked = recipe(tiny_data, f"objective.name={objective}", "data.extra=x.npz", teacher=tiny_data)
    with pytest.raises(UserError, match="needs a label for every image") as caught:
        check_names(asked)
    assert "data.extra_labels=source" in str(caught.value.hint)
    for labels in ("source", "teacher"):
        check_names(asked.changed(data=asked.data.changed(extra_labels=labels)))


def test_what_cannot_be_is_named_before_anything_is_loaded(tiny_data: Path) -> None:
    made_anew = recipe(tiny_data, "objective.name=rdt", "data.extra=x.npz", teacher=tiny_data)
    with pytest.raises(UserError, match="makes its images anew"):
        check_names(made_anew)
    untaught = ["objective.name=n-fgsm", "data.extra=x.npz", "data.extra_labels=teacher"]
    with pytest.raises(RecipeError, match=r"data\.extra_labels"):
        check_names(recipe(tiny_data, *untaught, teacher=None))
    with pytest.raises(RecipeError, match=r"data\.extra_share"):
        recipe(tiny_data, "data.extra_share=1", teacher=None)


def resolved(recipe: Recipe) -> Setup:
    return resolve(recipe, Context.begin())


def test_one_source_or_several(tiny_data: Path, tmp_path: Path) -> None:
    one = write_images(tmp_path / "one.npz")
    two = [str(one), "fashion-mnist-mini"]
    for given, count in ((str(one), 40), (json.dumps(two), 10_040)):
        asked = recipe(tiny_data, "objective.name=trades", f"data.extra={given}", teacher=None)
        setup = resolved(asked)
        assert setup.recipe.data.extra == asked.data.extra
        extra = setup.extra
        assert extra is not None
        assert len(extra) == count


def test_labels_by_a_teacher_keep_it_for_an_objective_that_has_none(
    tiny_data: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    settings = ["objective.name=n-fgsm", f"data.extra={write_images(tmp_path / 'a.npz')}"]
    taught = resolved(recipe(tiny_data, *settings, "data.extra_labels=teacher", teacher=tiny_teacher))
    assert taught.teacher is not None
    assert taught.objective.needs == {"logits"}
    alone = resolved(recipe(tiny_data, *settings, "data.extra_labels=source", teacher=tiny_teacher))
    assert alone.teacher is None


def _run(folder: Path, teacher: Path, data: Path, *options: str, output: str) -> Ended:
    asked = ["run", *tiny.recipe_options(teacher, data), "--objective", "kd-adv", "--skip-teacher-check"]
    return command(*asked, *options, "--quiet", "--output", output, folder=folder)


def test_a_run_learns_from_them_and_its_control_does_not(
    tiny_data: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "extra.npz")
    beside = ["--set", "data.extra=extra.npz", "--set", "data.extra_share=0.25"]
    for output, options in (("plain", []), ("beside", [*beside, "--set", "teacher.cache.views=1"])):
        ended = _run(tmp_path, tiny_teacher, tiny_data, *options, output=output)
        assert ended.code == 0, ended.err

    def weights(part: str) -> list[str]:
        names = ("plain", "beside")
        return [sha256_of(tmp_path / run / part / "model.safetensors") for run in names]

    assert weights("student")[0] != weights("student")[1]
    facts = json.loads((tmp_path / "beside" / "metrics.json").read_text())["timing"]
    assert facts["student"]["steps"] == 8  # two epochs of the 64 labelled images in batches of 16
    assert facts["student"]["teacher_features"]["bytes"] == (64 + 40) * tiny.CLASSES * 2
    environment = json.loads((tmp_path / "beside" / "environment.json").read_text())
    assert environment["extra_images"].startswith("40, ")
    assert json.loads((tmp_path / "beside" / "student" / "config.json").read_text())["rrm"][
        "extra_images"
    ] == {
        "count": 40,
        "share": 0.25,
        "labels": "none",
    }
    assert "extra_images" not in json.loads((tmp_path / "plain" / "environment.json").read_text())

    write_images(tmp_path / "extra.npz", seed=8)
    refused = _run(tmp_path, tiny_teacher, tiny_data, *beside, "--resume", output="beside")
    assert refused.code == 2
    assert "extra_images" in refused.err


def test_the_control_is_trained_on_the_labelled_images_alone(
    tiny_data: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    settings = ["objective.name=kd-adv", f"data.extra={write_images(tmp_path / 'extra.npz')}"]
    made = resolved(recipe(tiny_data, *settings, teacher=tiny_teacher))
    student, control = made.loader(), made.loader(extra=False)
    assert student.steps_per_epoch == control.steps_per_epoch == 4
    assert (len(student.images), len(control.images)) == (104, 64)
    assert all(int((batch.label_weight == 0).sum()) == 8 for batch in student.epoch(0))
    assert all(int((batch.label_weight == 0).sum()) == 0 for batch in control.epoch(0))


def test_other_objectives_of_the_same_run_are_compared_without_them(
    tiny_data: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    settings = ["objective.name=kd-adv", f"data.extra={write_images(tmp_path / 'extra.npz')}"]
    made = resolved(recipe(tiny_data, *settings, teacher=tiny_teacher))
    own = with_objective(made, made.recipe.objective)
    assert own.extra is made.extra is not None
    other = with_objective(made, ObjectiveSection(name="n-fgsm"))  # which needs a label for every image
    assert (other.extra, other.recipe.data.extra) == (None, ())


def test_passes_count_the_cached_answers_about_them(
    tiny_data: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    beside = f"data.extra={write_images(tmp_path / 'extra.npz', 32)}"  # 32 beside 64 labelled ones
    passes = []
    for settings in ([], [beside], [beside, "data.extra_labels=teacher"]):
        asked = ["objective.name=kd-adv", "teacher.cache.views=2", *settings]
        setup = resolved(recipe(tiny_data, *asked, teacher=tiny_teacher))
        passes.append(setup.passes(setup.build_student(), setup.objective, 2))
    plain, *others = passes
    for found in others:
        assert found.per_image == plain.per_image
        assert found.before == pytest.approx(1.5 * plain.before)
