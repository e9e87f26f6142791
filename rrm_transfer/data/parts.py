"""From the parts that a source has to the parts that training and evaluation need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import TypeVar

import torch
from torch import Tensor

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.images import DataSet, ImageSet

TEST_SHARE = 0.2
"""How much becomes the test part of a source that has none."""

TEST_SEED = 0
"""Fixed: were the test part cut by the run's seed, another run's training images would be in it."""

UNLABELLED = -1

PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""What sources call their parts, to what they are called here."""

S = TypeVar("S", bound=ImageSet)


@dataclass(frozen=True)
class SourceParts:
    """What a source holds.

    Attributes:
        name: Short name of the data set.
        source: Where it came from.
        images: ``train`` and ``test``, as far as they exist; a source that is not divided is all ``train``.
        class_names: In the order of the class indices, None where unknown.
        license: As the source states it.
        label_groups: The source's own classes that make up each class, where a label map was applied.
        notes: Choices made so far.
    """

    name: str
    source: str
    images: Mapping[str, ImageSet]
    class_names: tuple[str, ...] | None = None
    license: str | None = None
    label_groups: tuple[tuple[int, ...], ...] | None = None
    notes: tuple[str, ...] = ()


def choose_parts(labels: Mapping[str, Tensor]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Chooses which of a source's parts to train on and which to test on, before any is decoded.

    Args:
        labels: Class indices of each part, ``(N,)``; the parts are those of ``PART_NAMES``.

    Returns:
        ``train`` and ``test``, as far as there are such parts, to the source's part; and notes.
    """
    notes = []
    chosen = {"train": "train"} if "train" in labels else {}
    test = [part for part in ("test", "validation") if part in labels]
    if "test" in test and len(labels["test"]) and bool((labels["test"] == UNLABELLED).all()):
        notes.append("the source's test part has no labels and is not used")
        test.remove("test")
    if test:
        chosen["test"] = test[0]
    if test == ["validation"]:
        notes.append("the source's validation part is the test part")
    elif len(test) == 2:
        notes.append("the source's validation part is not used")
    return chosen, tuple(notes)


def assemble(parts: SourceParts, *, held_out: float, seed: int, train_limit: int | None) -> DataSet:
    """Checks the labels, finds or cuts the test part, then cuts the held-out part, then limits training.

    Args:
        parts: What the source holds.
        held_out: Fraction of the training part to cut for selection.
        seed: Of the held-out part and of the limit; the test part does not depend on it.
        train_limit: Training images to keep, None for all; the held-out part does not depend on it.

    Raises:
        UserError: Labels are out of range, a class has no training image, or a part cannot be cut.
    """
    if not 0 <= held_out < 1:
        raise UserError(
            "The held-out part is a fraction of training.",
            received=held_out,
            allowed="0 up to below 1",
        )
    if train_limit is not None and train_limit < 1:
        raise UserError("The limit of training images must be positive.", received=train_limit)
    notes = list(parts.notes)
    num_classes = _count_classes(parts)
    train, test = parts.images.get("train"), parts.images.get("test")
    if train is None:
        train = parts.images["test"].select([])
        notes.append("the source has no training part: it can be evaluated on, not trained on")
    if test is None:
        test, train = cut(train, round(TEST_SHARE * len(train)), seed=TEST_SEED, purpose="test")
        notes.append(
            f"the source has no test part: {len(test):,} of {len(test) + len(train):,} images were cut as "
            f"one, stratified, seed {TEST_SEED}"
        )
    if (held_out or train_limit) and not len(train):
        raise UserError(
            "The source has no training part to cut or limit.",
            received=parts.source,
            hint="use a source with a training part, or evaluate only",
        )
    selection = None
    if held_out:
        whole = len(train)
        selection, train = cut(train, round(held_out * whole), seed=seed, purpose="held-out")
        notes.append(f"held out: {len(selection):,} of {whole:,} training images, stratified, seed {seed}")
    if train_limit is not None and train_limit < len(train):
        whole = len(train)
        _, train = cut(train, whole - train_limit, seed=seed, purpose="train limit")
        notes.append(f"limited to {train_limit:,} of {whole:,} training images, stratified, seed {seed}")
    return DataSet(
        name=parts.name,
        train=train,
        held_out=selection,
        test=test,
        class_names=parts.class_names,
        num_classes=num_classes,
        channels=test.channels,
        license=parts.license,
        source=parts.source,
        label_groups=parts.label_groups,
        notes=tuple(notes),
    )


def cut(images: S, count: int, *, seed: int, purpose: str) -> tuple[S, S]:
    """Divides a set so that either side has the classes in the same proportions, and the ids in order.

    Args:
        images: The set.
        count: Images to take. Classes share it by largest remainder, and each leaves one at least.
        seed: Of the choice within a class.
        purpose: Names the choice, so that two of them are independent.

    Returns:
        What was taken and what is left.

    Raises:
        UserError: Nothing would be taken, or some class would lose its last image.
    """
    sizes = torch.bincount(images.labels)
    allowed = (sizes - 1).clamp(min=0)
    if not 0 < count <= int(allowed.sum()):
        raise UserError(
            f"Too few images to cut this part ({purpose}): each class keeps one at least.",
            received=f"{count:,} of {len(images):,} images in {int((sizes > 0).sum()):,} classes",
        )
    ideal = count * sizes.double() / len(images)
    shares = ideal.floor().long().minimum(allowed)
    for label in cycle((ideal - shares).argsort(descending=True, stable=True).tolist()):
        if shares.sum() == count:
            break
        shares[label] += shares[label] < allowed[label]
    ranks = Randomness(seed, 0, images.index).bits(purpose, ())
    taken = torch.zeros(len(images), dtype=torch.bool)
    for label, share in enumerate(shares.tolist()):
        members = torch.nonzero(images.labels == label).flatten()
        taken[members[ranks[members].argsort(stable=True)[:share]]] = True
    return images.select(torch.nonzero(taken).flatten()), images.select(torch.nonzero(~taken).flatten())


def _count_classes(parts: SourceParts) -> int:
    if not parts.images:
        raise UserError("The source holds no labelled part.", received=parts.source)
    for part, images in parts.images.items():
        if not len(images):
            raise UserError(f"The {part} part holds no image.", received=parts.source)
    train, names = parts.images.get("train"), parts.class_names
    ruling = parts.images["test"] if train is None else train
    num_classes = len(names) if names else int(ruling.labels.max()) + 1
    if num_classes > len(ruling) and train is not None and names is None:
        raise UserError(
            "There are fewer training images than classes, so some class has none.",
            received=f"{parts.source}: {len(ruling):,} images, largest label {num_classes - 1:,}",
            hint="labels must count from 0 without gaps",
        )
    for part, images in parts.images.items():
        check_labels(images.labels, num_classes, f"{part} part of {parts.source}")
    if num_classes < 2:
        raise UserError("A classifier needs two classes at least.", received=f"1 class in {parts.source}")
    if train is not None:
        empty = torch.nonzero(torch.bincount(train.labels, minlength=num_classes) == 0).flatten().tolist()
        if empty:
            listing = ", ".join(names[c] if names else str(c) for c in empty[:10])
            raise UserError(
                f"{len(empty):,} of {num_classes:,} classes have no training image.",
                received=f"{parts.source}: {listing}{', …' * (len(empty) > 10)}",
                hint="labels must count from 0 without gaps",
            )
    return num_classes


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Checks that all labels are class indices.

    Raises:
        UserError: One is not.
    """
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise UserError(
            f"{len(wrong):,} labels are out of range, first at position {first:,}.",
            received=f"label {int(labels[first])} in the {where}",
            allowed=f"0 to {num_classes - 1}",
        )
