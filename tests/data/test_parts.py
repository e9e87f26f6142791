from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.images import DataSet, MemoryImages
from rrm_transfer.data.parts import SourceParts, assemble, choose_parts, cut
from tests.data.fixtures import memory_images


def labelled(*labels: int) -> MemoryImages:
    return MemoryImages(
        pixels=torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


def divide(train: MemoryImages | None, test: MemoryImages | None, **options: Any) -> DataSet:
    images = {name: part for name, part in (("train", train), ("test", test)) if part is not None}
    names = options.pop("class_names", None)
    settings: dict[str, Any] = {"held_out": 0.0, "seed": 0, "train_limit": None} | options
    return assemble(SourceParts("toy", "here", images, names), **settings)


def test_a_cut_is_stratified_disjoint_and_in_order() -> None:
    images = labelled(*[0] * 100, *[1] * 50, *[2] * 10)
    taken, left = cut(images, 32, seed=1, purpose="p")
    assert torch.bincount(taken.labels).tolist() == [20, 10, 2]
    assert sorted(taken.index.tolist() + left.index.tolist()) == list(range(160))
    assert taken.index.tolist() == sorted(taken.index.tolist())
    assert left.index.tolist() == sorted(left.index.tolist())


@pytest.mark.parametrize("count", range(1, 14))
def test_a_cut_has_exactly_its_size_and_leaves_every_class_one(count: int) -> None:
    taken, left = cut(labelled(*[0] * 11, *[1] * 3, 2, 3, 3), count, seed=0, purpose="p")
    assert len(taken) == count
    assert set(left.labels.tolist()) == {0, 1, 2, 3}


def test_a_cut_depends_on_seed_and_purpose_only() -> None:
    images = memory_images(200)
    ids = [
        cut(images, 40, seed=seed, purpose=purpose)[0].index.tolist()
        for seed, purpose in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    ]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    assert ids[0] != ids[3]


def test_a_cut_that_would_empty_a_class_is_a_mistake() -> None:
    with pytest.raises(UserError, match="each class keeps one"):
        cut(labelled(0, 0, 1, 1), 3, seed=0, purpose="p")
    with pytest.raises(UserError, match="each class keeps one"):
        cut(labelled(0, 0, 1, 1), 0, seed=0, purpose="p")


def test_the_held_out_part_comes_from_training_and_is_recorded() -> None:
    data = divide(memory_images(200), memory_images(20), held_out=0.1, seed=3)
    assert data.held_out is not None
    assert torch.bincount(data.held_out.labels).tolist() == [5] * 4
    assert not set(data.held_out.index.tolist()) & set(data.train.index.tolist())
    assert len(data.train) == 180
    assert len(data.test) == 20
    assert data.notes == ("held out: 20 of 200 training images, stratified, seed 3",)


def test_the_limit_leaves_the_held_out_part_alone() -> None:
    free = divide(memory_images(200), memory_images(20), held_out=0.1)
    limited = divide(memory_images(200), memory_images(20), held_out=0.1, train_limit=40)
    assert free.held_out is not None
    assert limited.held_out is not None
    assert torch.equal(free.held_out.index, limited.held_out.index)
    assert torch.bincount(limited.train.labels).tolist() == [10] * 4
    assert "limited to 40 of 180" in limited.notes[-1]


def test_a_test_part_that_was_cut_does_not_depend_on_the_seed() -> None:
    first, second = (divide(memory_images(100), None, held_out=0.25, seed=seed) for seed in (0, 1))
    assert torch.equal(first.test.index, second.test.index)
    assert len(first.test) == 20
    assert "no test part" in first.notes[0]
    assert first.held_out is not None
    assert second.held_out is not None
    assert not torch.equal(first.held_out.index, second.held_out.index)
    parts = [first.train, first.held_out, first.test]
    assert sorted(i for part in parts for i in part.index.tolist()) == list(range(100))


def test_a_source_without_training_part_can_be_evaluated_on() -> None:
    data = divide(None, memory_images(12))
    assert (len(data.train), len(data.test), data.num_classes) == (0, 12, 4)
    assert "cannot" not in data.description
    with pytest.raises(UserError, match="no training part"):
        divide(None, memory_images(12), held_out=0.1)


def test_the_parts_of_a_source_are_chosen_by_what_they_hold() -> None:
    some, none = torch.tensor([0, 1]), torch.tensor([-1, -1])
    assert choose_parts({"train": some, "test": some}) == ({"train": "train", "test": "test"}, ())
    chosen, notes = choose_parts({"train": some, "validation": some, "test": none})
    assert chosen == {"train": "train", "test": "validation"}
    assert len(notes) == 2
    chosen, notes = choose_parts({"train": some, "validation": some, "test": some})
    assert chosen == {"train": "train", "test": "test"}
    assert notes == ("the source's validation part is not used",)


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (labelled(0, 1, 5), labelled(0), {"class_names": ("a", "b")}, "label 5 in the train part"),
        (labelled(0, 1, -1), labelled(0), {}, "first at position 2"),
        (labelled(0, 1), labelled(0, 2), {}, "label 2 in the test part"),
        (labelled(0, 2), labelled(0), {}, "fewer training images than classes"),
        (labelled(0, 0), labelled(0), {"class_names": ("cat", "dog")}, "dog"),
        (labelled(0, 0), labelled(0), {}, "two classes at least"),
        (labelled(), labelled(0), {}, "train part holds no image"),
        (labelled(0, 1), labelled(), {}, "test part holds no image"),
        (labelled(0, 1), None, {}, "each class keeps one"),
        (None, None, {}, "no labelled part"),
        (labelled(0, 1), labelled(0), {"held_out": 1.0}, "fraction"),
        (labelled(0, 1), labelled(0), {"held_out": -0.1}, "fraction"),
        (labelled(0, 1), labelled(0), {"train_limit": 0}, "limit"),
        (labelled(0, 0, 1), labelled(0), {"train_limit": 1}, "each class keeps one"),
    ],
)
def test_what_cannot_be_divided_is_a_mistake(
    train: MemoryImages | None, test: MemoryImages | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        divide(train, test, **options)


def test_a_cut_of_many_images_in_many_classes_costs_little() -> None:
    labels = torch.arange(200_000) % 500
    images = MemoryImages(pixels=torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels=labels)
    tracemalloc.start()
    taken, left = cut(images, 60_001, seed=0, purpose="test")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(taken), len(left)) == (60_001, 139_999)
    assert peak < 50e6
