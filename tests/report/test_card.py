"""The model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from rrm_transfer.core.quantities import Proportion
from rrm_transfer.evaluation.metrics import Metrics, row
from rrm_transfer.report.card import markdown, render_card, write_card
from rrm_transfer.runs.finished import read_run
from tests.report import fixtures

Change = Callable[[dict[str, Any]], object]


def _card(path: Path, change: Change = lambda _: None, *, taught: bool = False) -> str:
    folder = fixtures.write_run(path / "run", taught=taught)
    config = json.loads((folder.student / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder.student / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return render_card(read_run(folder, fixtures.metrics(taught=taught)), "user/name")


def _with_stem(config: dict[str, Any]) -> None:
    config["rrm"] |= {"stem": "cifar", "architecture": "resnet18"}


def _unknown(config: dict[str, Any]) -> None:
    config["architecture"] = "preact_resnet18"


@pytest.mark.parametrize(
    ("change", "here", "not_here"),
    [
        (lambda _: None, 'timm.create_model("hf-hub:user/name", pretrained=True)', "--teacher"),
        (_with_stem, 'rrm_transfer.load_student("hf-hub:user/name")', "timm.create_model"),
        (_unknown, "rrm-transfer run --teacher hf-hub:user/name", "timm.create_model"),
    ],
)
def test_a_card_tells_how_the_network_is_loaded(
    change: Change, here: str, not_here: str, tmp_path: Path
) -> None:
    text = _card(tmp_path, change)
    assert here in text
    assert not_here not in text


def test_the_card_of_a_run_folder_loads_from_the_folder(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    write_card(read_run(folder, fixtures.metrics()))
    text = folder.card.read_text(encoding="utf-8")
    assert 'timm.create_model("local-dir:student", pretrained=True)' in text
    assert "tf.normalize(pixels, [0.449], [0.226])" in text
    assert fixtures.HOME not in text


def test_a_card_says_what_a_reader_must_know(tmp_path: Path) -> None:
    text = _card(tmp_path)
    for words in (
        "The student keeps 79 % (interval 76 % to 82 %) of the teacher",
        "1 of 2 checks is suspicious",
        "trained by `rrm` from the robust teacher `t0`",
        "Linf 8/255",
        "| student | 75.2 % (752/1000, 72.4–77.8)",
        "| more-steps | suspicious | 0.034 | 0.02 |",
        "not a guarantee",
        "License of the weights: MIT",
        "vaishnavi2022transferring",
    ):
        assert words in text, words
    assert "from the robust teacher" not in _card(tmp_path / "teach", taught=True)


def test_the_hubs_classes_read_the_metadata_and_write_it_again(tmp_path: Path) -> None:
    card = ModelCard(_card(tmp_path))
    data = fixtures.metadata(str(card))
    assert data["teacher"] == "t0"
    assert data["tags"][:3] == ["image-classification", "timm", "transformers"]
    assert data["datasets"] == ["zalando-datasets/fashion_mnist"]
    assert data["license"] == "mit"
    (index,) = data["model-index"]
    (result,) = index["results"]
    arguments = [metric["args"] for metric in result["metrics"]]
    assert [entry["attack"] for entry in arguments] == ["none", "pgd", "pgd", "pgd"]
    assert [entry.get("eps") for entry in arguments] == [None, *fixtures.RADII]
    assert {entry["count"] for entry in arguments} == {1000}
    assert fixtures.metadata(str(ModelCard(str(card)))) == data


def test_evaluations_enter_the_card(tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run")
    strong = row("student", "test", Proportion(601, 1000), attack="autoattack", norm="Linf", eps=fixtures.EPS)
    fixtures.write_evaluation(folder, "aa", Metrics([strong]))
    text = render_card(read_run(folder, fixtures.metrics()))
    assert "Evaluation aa:" in text
    (result,) = fixtures.metadata(text)["model-index"][0]["results"]
    assert result["metrics"][-1]["args"]["attack"] == "autoattack"


def test_names_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    text = _card(tmp_path)
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "<i>" not in body
    assert markdown("a|b\n[x](y) *z* `c`") == "a\\|b \\[x\\](y) \\*z\\* \\`c\\`"


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("My terms", {"license": "other", "license_name": "My terms"}),
        (None, {}),
    ],
)
def test_a_license_has_a_form_that_the_hub_takes(
    license: str | None, expected: dict[str, str], tmp_path: Path
) -> None:
    data = fixtures.metadata(_card(tmp_path, lambda config: config["pretrained_cfg"].update(license=license)))
    found = {key: value for key, value in data.items() if key.startswith("license")}
    assert found == expected


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("robust_resnet50", "madrylab/robust-imagenet-models"),
        ("hf-hub:user/teacher@main", "user/teacher"),
        ("resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("fashion_mnist_linf", "fashion_mnist_linf"),
        ("a teacher", None),
    ],
)
def test_the_teacher_is_named_and_is_no_base_model(
    teacher: str, expected: str | None, tmp_path: Path
) -> None:
    data = fixtures.metadata(_card(tmp_path, lambda config: config["rrm"]["teacher"].update(name=teacher)))
    assert data.get("teacher") == expected
    assert "base_model" not in data


@pytest.mark.parametrize("taught", [False, True])
def test_the_weights_that_it_started_from_are_its_base_model(taught: bool, tmp_path: Path) -> None:
    folder = fixtures.write_run(tmp_path / "run", taught=taught)
    recipe = yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))
    recipe["student"] |= {"start": "pretrained", "weights": None}
    folder.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    data = fixtures.metadata(render_card(read_run(folder, fixtures.metrics()), "user/name"))
    assert data["base_model"] == "timm/test_resnet.r160_in1k"
    assert data["base_model_relation"] == "finetune"


def test_only_what_timm_loads_is_said_to_load_in_transformers(tmp_path: Path) -> None:
    assert "transformers" not in fixtures.metadata(_card(tmp_path, _with_stem))["tags"]
