"""What is known about a model before it is loaded, and how it is loaded with its data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import NAMED_STATISTICS
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.images import DataSet
from rrm_transfer.data.sources import load_dataset_by_name
from rrm_transfer.recipe.schema import DataSection
from rrm_transfer.runs.models import LoadedData, ModelFacts, align_labels, load_data
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View


class Flat(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        features = x.flatten(1)
        return Outputs(self.fc(features), features)


def teacher(classes: int, names: tuple[str, ...] | None) -> Teacher:
    view = View((1, 1), (8, 8))
    return Teacher(
        Flat(classes),
        name="flat",
        architecture="flat",
        statistics=NAMED_STATISTICS["none"],
        view=view,
        class_names=names,
    )


def images() -> torch.Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_dataset_by_name("fashion-mnist-mini")


def test_classes_in_another_order_are_matched_by_name(data: DataSet) -> None:
    assert data.class_names is not None
    names = tuple(reversed(data.class_names))
    network = teacher(10, names)
    before = network(images()).logits
    weight = network.get_parameter("network.fc.weight").clone()
    align_labels(network, data, Narrator())
    assert torch.equal(network(images()).logits, before.flip(1))
    classifier = network.classifier()
    assert classifier is not None
    assert torch.equal(classifier[0], weight.flip(0))


def test_a_teacher_with_more_classes_keeps_those_of_the_data(data: DataSet) -> None:
    assert data.class_names is not None
    network = teacher(12, ("extra", *data.class_names, "more"))
    before = network(images()).logits
    align_labels(network, data, Narrator())
    assert network.num_classes == 10
    assert torch.equal(network(images()).logits, before[:, 1:11])


def test_a_label_map_groups_probabilities(data: DataSet) -> None:
    grouped = replace(data, label_groups=((0, 2), (1,)), class_names=("even", "one"), num_classes=2)
    network = teacher(4, None)
    probabilities = network(images()).logits.softmax(1)
    align_labels(network, grouped, Narrator())
    inside = probabilities[:, :3].sum(1)
    expected = (
        torch.stack([probabilities[:, 0] + probabilities[:, 2], probabilities[:, 1]], 1) / inside[:, None]
    )
    assert torch.allclose(network(images()).logits.softmax(1), expected, atol=1e-6)
    assert network.classifier() is None


def test_unknown_names_leave_the_teacher_as_it_is(data: DataSet) -> None:
    network = teacher(10, tuple(f"class {number}" for number in range(10)))
    before = network(images()).logits
    align_labels(network, data, Narrator())
    assert torch.equal(network(images()).logits, before)


def test_a_radius_belongs_to_its_norm() -> None:
    assert ModelFacts(norm="L2", eps=3.0).eps_in("L2") == 3.0
    assert ModelFacts(norm="L2", eps=3.0).eps_in("Linf") == 8 / 255
    assert ModelFacts().eps_in("Linf") == 8 / 255
    with pytest.raises(UserError, match="no customary eps for L2"):
        ModelFacts(norm="Linf", eps=8 / 255).eps_in("L2")
    with pytest.raises(UserError, match=r"Unknown norm(.|\n)*did you mean Linf"):
        ModelFacts().eps_in("linf")  # type: ignore[arg-type]


def test_a_label_map_is_the_teachers_only_on_its_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ModelFacts(dataset="fashion-mnist-mini", label_map="absent", held_out=0.1, image_size=48)
    context = Context.begin()
    for named in (None, "fashion-mnist-mini"):
        with pytest.raises(UserError, match="absent"):
            load_data(known.section(named), known, seed=0, context=context)
    other = ModelFacts(dataset="another", label_map="absent", held_out=0.1, image_size=48)
    loaded = load_data(other.section("fashion-mnist-mini"), other, seed=0, context=context)
    assert (loaded.section.label_map, loaded.images.held_out, loaded.image_size) == (None, None, 48)


def test_an_empty_part_is_told(data: DataSet) -> None:
    section = DataSection(name="fashion-mnist-mini")
    loaded = LoadedData(section, replace(data, train=data.train.select([])), 32, BrokenImages())
    with pytest.raises(UserError, match="no train part"):
        loaded.part("train")
