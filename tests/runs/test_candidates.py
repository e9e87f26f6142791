"""What is measured of networks that could be a teacher, and in which order they are put."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rrm_transfer.cli.app import app
from rrm_transfer.core.quantities import Proportion
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.images import DataSet, MemoryImages
from rrm_transfer.evaluation.metrics import Row, row
from rrm_transfer.recipe.schema import TeacherSection
from rrm_transfer.runs import candidates, models
from rrm_transfer.runs.candidates import Candidate, in_order, quick_accuracy, rank_teachers
from rrm_transfer.runs.models import ModelFacts
from rrm_transfer.runs.standing import Standing
from rrm_transfer.runtime.context import Context
from tests.evaluation.fixtures import stock_folder
from tests.runs.toys import SIZE, brightness

EPS = ThreatModel("Linf", 8 / 255)


def serve(monkeypatch: pytest.MonkeyPatch, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Has these images be every data set, and the toy every model but one of three classes."""
    images = MemoryImages(
        pixels=pixels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE).contiguous(), labels=labels
    )
    data = DataSet("toys", images, None, images, ("dark", "light"), 2, 1, None, "here")

    def load(name: str, **options: Any) -> Any:
        if name == "three classes":
            return SimpleNamespace(num_classes=3, class_names=None)
        return brightness(**options)

    monkeypatch.setattr(models, "find_origin", lambda *_, **__: None)
    monkeypatch.setattr(models, "load_dataset_by_name", lambda *_, **__: data)
    monkeypatch.setattr(models, "load_teacher", load)


def measured(monkeypatch: pytest.MonkeyPatch, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    serve(monkeypatch, pixels, labels)
    source = TeacherSection(name="brightness")
    return quick_accuracy(source, "toys", Context.begin(), allow_code=frozenset())


def test_classes_in_another_order_are_matched_by_name_as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 2
    found = measured(monkeypatch, 60 + 140 * labels, labels)
    assert (found["clean"], found["robust"], found["robust_2eps"], found["count"]) == (1.0, 1.0, 1.0, 40)
    assert found["verdict"] == "accurate and robust to a short attack"


@pytest.mark.parametrize(
    ("near", "far", "words"),
    [
        (24, 8, "accurate and robust to a short attack"),
        (24, 0, "accurate, but only WEAKLY robust"),
        (16, 8, "accurate, but only WEAKLY robust"),
        (14, 1, "accurate, NOT robust"),
        (6, 6, "accurate, NOT robust"),
    ],
)
def test_networks_between_are_told_apart(
    near: int, far: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 images ``near`` are farther than 8/255 from the other class, ``far`` of those than 16/255."""
    margins = torch.tensor([40] * far + [12] * (near - far) + [4] * (40 - near))
    labels = torch.arange(40) % 2
    found = measured(monkeypatch, 127.5 + (margins + 0.5) * (2 * labels - 1), labels)
    assert (found["clean"], found["robust"], found["robust_2eps"]) == (1.0, near / 40, far / 40)
    assert found["verdict"] == words


def test_the_entropy_of_the_answers_is_that_of_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 2
    found = measured(monkeypatch, 60 + 140 * labels, labels)
    light = torch.sigmoid(2 * (torch.tensor([60, 200]) / 255 - 0.5))
    expected = -(light * light.log() + (1 - light) * (1 - light).log()).mean()
    assert found["entropy"] == pytest.approx(float(expected), rel=1e-5)


def percent(accuracy: float) -> Row:
    correct = round(2 * accuracy)
    return row("teacher", "train", Proportion(correct, 200), kept=range(correct))


def candidate(name: str, clean: float, near: float, far: float, entropy: float) -> Candidate:
    return Candidate(name, Standing(percent(clean), percent(near), percent(far)), entropy, 10, EPS)


def test_robust_before_weak_before_others_and_the_less_certain_of_the_robust_first() -> None:
    network = [
        candidate("broken", 10, 10, 10, 0.0),
        candidate("undefended", 95, 4, 0, 0.1),
        candidate("more accurate, undefended", 97, 0, 0, 0.1),
        candidate("weak", 85, 35, 10, 0.9),
        candidate("weaker", 85, 25, 10, 0.9),
        candidate("strong, certain", 90, 70, 40, 0.2),
        candidate("moderate", 82, 50, 20, 0.8),
        candidate("often wrong", 40, 30, 20, 1.5),
    ]
    places = in_order(network)
    assert [(place.rank, place.name) for place in places] == list(
        enumerate(
            (
                "moderate", "strong, certain", "often wrong", "weak", "weaker", "more accurate, undefended",
                "undefended", "broken",
            ),
            1,
        )
    )  # fmt: skip
    reasons = {place.name: place.reason for place in places}
    assert reasons["moderate"] == "robust, and none of such is less certain: 0.80 nats"
    assert reasons["strong, certain"] == "robust, but more certain: 0.20 nats, the first 0.80"
    assert reasons["often wrong"] == "robust, but 50 points behind the most accurate robust one"
    assert "keeps 41% of its clean accuracy at eps, 12% at 2 eps" in reasons["weak"]
    assert "not robust" in reasons["undefended"]
    assert "chance" in reasons["broken"]
    assert not any("\n" in reason for reason in reasons.values())


def test_all_are_measured_on_one_set_under_one_threat_model_and_others_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = torch.arange(40) % 2
    serve(monkeypatch, 60 + 140 * labels, labels)
    made = {"first": ModelFacts("toys", "Linf", 4 / 255), "second": ModelFacts("toys", "L2", 0.5)}
    monkeypatch.setattr(candidates, "facts_about", lambda name: made.get(name, ModelFacts()))
    sources = [TeacherSection(name=name) for name in ("unknown", "first", "three classes", "second")]
    *ranked, other = rank_teachers(sources, "toys", Context.begin(), allow_code=frozenset())
    threats = {place.name: place.candidate and place.candidate.threat for place in ranked}
    assert threats == dict.fromkeys(("unknown", "first", "second"), ThreatModel("Linf", 4 / 255))
    told = {place.name: place.reason for place in ranked}
    assert "made for L2 0.5, measured at Linf 4/255" in told["second"]
    assert "made for" not in told["first"] + told["unknown"]
    assert (other.rank, other.name, other.candidate) == (None, "three classes", None)
    assert "3 classes, the data have 2" in other.reason


def inspect(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["inspect", *arguments])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A stock folder, and the zoo's embedded teacher."""
    return str(stock_folder(tmp_path_factory.mktemp("model"))), "fashion_mnist_linf"


def test_several_without_data_are_described_in_their_order(two: tuple[str, str]) -> None:
    ended = inspect(*two, "--json")
    described = json.loads(ended.stdout)["teachers"]
    assert [facts["source"] for facts in described] == list(two)
    assert "clean" not in described[0]
    assert "not ranked: --dataset" in inspect(*two).stdout


def test_several_with_data_are_a_table_and_a_ranking(
    two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = in_order([candidate(two[0], 90, 70, 40, 0.2), candidate(two[1], 80, 60, 20, 0.6)])
    monkeypatch.setattr(candidates, "rank_teachers", lambda *_, **__: places)
    document = json.loads(inspect(*two, "--dataset", "fashion-mnist-mini", "--json").stdout)
    assert [(place["rank"], place["source"], place["entropy"]) for place in document["ranking"]] == [
        (1, two[1], 0.6),
        (2, two[0], 0.2),
    ]
    assert document["ranking"][0]["width"] == 96
    assert "rule of thumb" in document["rule"]
    text = inspect(*two, "--dataset", "fashion-mnist-mini").stdout
    for words in ("at 2 eps %", "1  fashion_mnist_linf: robust", "rule of thumb", "Linf 8/255"):
        assert words in text


def test_what_several_cannot_be(two: tuple[str, str], tmp_path: Path) -> None:
    twice = inspect(two[1], two[1])
    assert "named twice" in str(twice.exception)
    for option in ("--convert", "--teacher-arch", "--teacher-weights"):
        refused = inspect(*two, option, str(tmp_path / "file"))
        assert f"several NAMEs and {option}" in str(refused.exception)
    assert not list(tmp_path.iterdir())
