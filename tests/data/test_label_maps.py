from __future__ import annotations

import pytest
import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.data.label_maps import LABEL_MAPS, LabelMap, find_label_map, relabel
from rrm_transfer.data.parts import SourceParts

MAP = LabelMap("odd", 5, {"odd": (1, 3), "four": (4,)})


def parts(classes: int = 5) -> SourceParts:
    labels = torch.arange(20) % classes
    pixels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 1, 4, 4)
    names = tuple("abcdefgh"[:classes])
    return SourceParts("toy", "nowhere", {"train": MemoryImages(pixels=pixels, labels=labels)}, names)


def test_images_of_other_classes_are_left_out_and_the_rest_keep_their_ids() -> None:
    mapped = relabel(parts(), MAP)
    train = mapped.images["train"]
    assert train.index.tolist() == [i for i in range(20) if i % 5 in (1, 3, 4)]
    assert train.labels.tolist() == [{1: 0, 3: 0, 4: 1}[i % 5] for i in train.index.tolist()]
    assert mapped.class_names == ("odd", "four")
    assert mapped.label_groups == ((1, 3), (4,))


def test_data_with_other_classes_are_refused() -> None:
    with pytest.raises(UserError, match="5 classes"):
        relabel(parts(classes=4), MAP)
    with pytest.raises(UserError, match="restricted-imagenet"):
        find_label_map("restricted-imagnet")


def test_restricted_imagenet_has_its_nine_disjoint_groups() -> None:
    groups = LABEL_MAPS["restricted-imagenet"].groups
    # Sizes as the source counts them: dog 118 (151 to 268), cat 5, frog 3, turtle 5, bird 21, primate 18,
    # fish 9, crab 4, insect 20.
    assert [len(group) for group in groups.values()] == [118, 5, 3, 5, 21, 18, 9, 4, 20]
    members = [label for group in groups.values() for label in group]
    assert len(members) == len(set(members))
