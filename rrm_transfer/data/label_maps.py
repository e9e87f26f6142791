"""Other classes for the same images: groups of a source's classes, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.names import did_you_mean
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.parts import SourceParts


@dataclass(frozen=True)
class LabelMap:
    """Classes made of a source's classes; images of all others are left out.

    Attributes:
        name: After ``data.label_map``.
        source_classes: How many classes the source must have.
        groups: For each new class, in order, the source's classes that make it up.
    """

    name: str
    source_classes: int
    groups: Mapping[str, tuple[int, ...]]


def _range(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


LABEL_MAPS = {
    # Tsipras et al., "Robustness May Be at Odds with Accuracy", ICLR 2019, arXiv 1805.12152, table 2;
    # class indices in the order of ImageNet-1k's sorted WordNet ids.
    "restricted-imagenet": LabelMap(
        "restricted-imagenet",
        1000,
        {
            "dog": _range(151, 268),
            "cat": _range(281, 285),
            "frog": _range(30, 32),
            "turtle": _range(33, 37),
            "bird": _range(80, 100),
            "primate": _range(365, 382),
            "fish": _range(389, 397),
            "crab": _range(118, 121),
            "insect": _range(300, 319),
        },
    ),
}


def find_label_map(name: str) -> LabelMap:
    """Returns the label map called ``name``.

    Raises:
        UserError: There is none.
    """
    if name not in LABEL_MAPS:
        raise UserError(
            "Unknown label map.", received=name, allowed=LABEL_MAPS, hint=did_you_mean(name, LABEL_MAPS)
        )
    return LABEL_MAPS[name]


def relabel(parts: SourceParts, label_map: LabelMap) -> SourceParts:
    """Gives a source the classes of ``label_map``; images keep their ids.

    Raises:
        UserError: The source has classes that the map does not know.
    """
    largest = max(int(images.labels.max()) for images in parts.images.values()) + 1
    known = len(parts.class_names) if parts.class_names else largest
    if known > label_map.source_classes or (parts.class_names and known != label_map.source_classes):
        raise UserError(
            f"The label map {label_map.name!r} is for other data.",
            received=f"{known} classes in {parts.source}",
            allowed=f"{label_map.source_classes} classes",
        )
    table = torch.full((label_map.source_classes,), -1)
    for number, group in enumerate(label_map.groups.values()):
        table[list(group)] = number

    def mapped(images: ImageSet) -> ImageSet:
        labels = table[images.labels]
        kept = (labels >= 0).nonzero().flatten()
        chosen = images.select(kept)
        chosen.labels = labels[kept]
        return chosen

    before = sum(map(len, parts.images.values()))
    images = {part: mapped(images) for part, images in parts.images.items()}
    after = sum(map(len, images.values()))
    return replace(
        parts,
        name=f"{parts.name}-{label_map.name}",
        images=images,
        class_names=tuple(label_map.groups),
        label_groups=tuple(label_map.groups.values()),
        notes=(
            *parts.notes,
            f"label map {label_map.name}: {after:,} of {before:,} images are in its classes",
        ),
    )
